"""Shards of a video: each does its part, all together are the video, and what does not fit is refused by name."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.api import video as verb
from dni_deploy.api.video_shards import ShardReport, video_shard
from dni_deploy.errors import BusyError, EngineError, LimitError, PartialResultError, UsageError
from dni_deploy.jobs.manifest import read_rows
from dni_deploy.video_io.encoder import EncoderOptions
from dni_deploy.video_io.resume import job_folder_path, open_job
from dni_deploy.video_io.segments import SegmentWriter
from tests.support.frame_session import Dimmer, opener
from tests.support.segment_jobs import make_request, make_whole
from tests.support.video_clips import Clip
from tests.support.video_command import MEMBERS


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> Dimmer:
    dimmer = Dimmer((1.0, 0.0))
    monkeypatch.setattr(verb, "open_session", opener(dimmer, MEMBERS))
    return dimmer


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty frames, four segments."""
    return Clip(audio=None).write(tmp_path_factory.mktemp("clip") / "in.mkv")


def make_shard(source: Path, output: Path, shard: str, **changed: Any) -> Any:
    request = vars(make_request(source, output))
    if shard != "join":
        request.pop("alpha_log")
    return video_shard(**{**request, **changed}, shard=shard)


def no_session(*arguments: object, **options: object) -> None:
    raise AssertionError("no network is needed")


def test_all_shards_are_the_video(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, engine: Dimmer) -> None:
    whole = make_whole(source, tmp_path / "whole.mkv")
    output = tmp_path / "out.mkv"
    order = [1, 2, 3, 3, 4, 5, 5]  # of 5 shards one has nothing to do
    random.Random(1).shuffle(order)
    rendered, infer = [0], engine.infer

    def count(slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        rendered[0] += 1
        return infer(slot, x)

    monkeypatch.setattr(engine, "infer", count)
    reports: dict[int, list[ShardReport]] = {}
    for number in order:
        reports.setdefault(number, []).append(make_shard(source, output, f"{number}/5"))
    assert rendered[0] == 20
    assert [reports[number][0].frames for number in range(1, 6)] == [5, 5, 5, 5, 0]
    assert reports[3][1].resumed_frames == 5
    rows = list(read_rows(job_folder_path(output)))
    assert sorted((row.unit, row.shard) for row in rows) == [(f"00000{n}-00000{n}", f"{n + 1}/5") for n in range(4)]
    monkeypatch.setattr(verb, "open_session", no_session)
    assert make_shard(source, output, "2/5").resumed_frames == 5
    report = make_shard(source, output, "join")
    assert (report.frames, report.engine) == (20, "dimmer")
    assert output.read_bytes() == whole.data
    assert output.with_suffix(".jsonl").read_bytes() == whole.log
    assert not job_folder_path(output).exists()
    json.dumps(report.to_json(), allow_nan=False)


def test_video_goes_on_where_shards_stopped(tmp_path: Path, source: Path) -> None:
    whole = make_whole(source, tmp_path / "whole.mkv")
    make_shard(source, tmp_path / "out.mkv", "2/2")
    assert verb.video(**vars(make_request(source, tmp_path / "out.mkv"))).resumed_frames == 10
    assert (tmp_path / "out.mkv").read_bytes() == whole.data


def test_joining_names_the_shards_that_are_missing(tmp_path: Path, source: Path) -> None:
    output = tmp_path / "out.mkv"
    with pytest.raises(UsageError, match="nothing to join: no shard has begun"):
        make_shard(source, output, "join")
    assert not job_folder_path(output).exists()
    make_shard(source, output, "3/3")
    with pytest.raises(
        UsageError, match=r"Segments 0 to 1, 3 of 4 .* are missing; of 3 shards, run 1 to 2 again\. .*nothing was"
    ):
        make_shard(source, output, "join")
    make_shard(source, output, "1/3")
    (job_folder_path(output) / "000003.segment").write_bytes(b"damaged")
    with pytest.raises(UsageError, match=r"Segments 1, 3 of 4 .* of 3 shards, run 1 to 2 again\."):
        make_shard(source, output, "join")
    assert not output.exists()


@pytest.mark.parametrize(
    ("changed", "name"),
    [({"alpha": 0.5}, "alpha"), ({"tile": 16}, "tiles"), ({"encoder": EncoderOptions(segment_frames=9)}, "encoder, segment")],
)
def test_a_job_of_other_settings_is_refused_by_name(tmp_path: Path, source: Path, changed: dict[str, Any], name: str) -> None:
    make_shard(source, tmp_path / "out.mkv", "1/2")
    for shard in ("2/2", "join"):
        with pytest.raises(UsageError, match=f"differs in: {name}"):
            make_shard(source, tmp_path / "out.mkv", shard, **changed)


def test_a_shard_on_another_engine_is_refused(tmp_path: Path, source: Path, engine: Dimmer) -> None:
    make_shard(source, tmp_path / "out.mkv", "1/2")
    engine.name = "another"
    with pytest.raises(UsageError, match="differs in: engine"):
        make_shard(source, tmp_path / "out.mkv", "2/2")


def test_what_shards_cannot_do_is_refused(tmp_path: Path, source: Path) -> None:
    class Live:
        def at(self, seconds: float, frame: int) -> Coefficients:
            return Coefficients(MEMBERS, (1.0, 0.0))

    output = tmp_path / "out.mkv"
    with pytest.raises(UsageError, match="set from outside"):
        make_shard(source, output, "1/2", alpha=Live())
    with pytest.raises(UsageError, match="--fresh would discard"):
        make_shard(source, output, "1/2", fresh=True)
    with pytest.raises(UsageError, match="shard 3 is none of 1 to 2"):
        make_shard(source, output, "3/2")
    assert not list(tmp_path.iterdir())


def test_shards_and_a_whole_run_keep_out_of_each_others_way(tmp_path: Path, source: Path) -> None:
    pytest.importorskip("fcntl")
    output = tmp_path / "out.mkv"
    with open_job(output, {}, segment_frames=5), pytest.raises(BusyError):
        make_shard(source, output, "1/2")
    job_folder_path(output).joinpath("job.json").unlink()
    make_shard(source, output, "1/2")
    description = json.loads(job_folder_path(output).joinpath("job.json").read_bytes())
    del description["schema"]
    with open_job(output, description, segment_frames=5, shared=True):
        make_shard(source, output, "2/2")
        with pytest.raises(BusyError):
            make_shard(source, output, "join")
    assert make_shard(source, output, "join").frames == 20


def test_a_unit_that_fails_is_a_row(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, close = tmp_path / "out.mkv", SegmentWriter.close

    def fail(writer: SegmentWriter) -> Any:
        if writer._first_frame == 5:
            raise EngineError("The device is gone.")
        return close(writer)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentWriter, "close", fail)
        with pytest.raises(PartialResultError, match=r"1 of 4 units of shard 1/1 failed.* The device is gone\."):
            make_shard(source, output, "1/1")
        with pytest.raises(EngineError, match="The device is gone"):
            make_shard(source, output, "2/4")
    assert [row.error.message for row in read_rows(job_folder_path(output)) if row.error] == ["The device is gone."] * 2
    with pytest.raises(UsageError, match=r"Segments 1 of 4 .*of 1 shards, run 1 again, or of 4 2\..* The device is gone\."):
        make_shard(source, output, "join")
    assert make_shard(source, output, "1/1").resumed_frames == 15
    assert make_shard(source, output, "join").frames == 20


def test_a_full_disk_stops_a_shard(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, attempts = tmp_path / "out.mkv", []

    def fail(writer: SegmentWriter) -> Any:
        attempts.append(writer)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SegmentWriter, "close", fail)
    with pytest.raises(LimitError, match="could not be written"):
        make_shard(source, output, "1/1")
    assert len(attempts) == 1


def test_shards_of_a_damaged_video_lose_what_one_run_loses(tmp_path: Path) -> None:
    """The packets promise 40 frames. The shard that meets the damage lists them anew, and those before it are made again."""
    source = Clip(frames=40, audio=None).write(tmp_path / "in.mp4")
    data = bytearray(source.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    source.write_bytes(data)
    whole, output = make_whole(source, tmp_path / "whole.mkv"), tmp_path / "out.mkv"
    assert "about" in whole.error
    for number in (3, 1, 2):
        make_shard(source, output, f"{number}/3")
    with pytest.raises(UsageError, match=r"of 3 shards, run 1, 3 again\. "):
        make_shard(source, output, "join")
    for number in (1, 3):
        make_shard(source, output, f"{number}/3")
    with pytest.raises(PartialResultError) as caught:
        make_shard(source, output, "join")
    assert str(caught.value).replace(str(output), "OUT") == whole.error
    assert output.read_bytes() == whole.data
    assert output.with_suffix(".jsonl").read_bytes() == whole.log
