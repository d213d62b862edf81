"""A video by several workers is the video; what a cluster cannot do is refused. No cluster is started here."""

from __future__ import annotations

import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.api import video as verb
from dni_deploy.api import video_cluster
from dni_deploy.api import videos as videos_module
from dni_deploy.api.video_cluster import video_on_cluster
from dni_deploy.errors import EngineError, LimitError, PartialResultError, UnavailableError, UsageError
from dni_deploy.jobs.manifest import read_rows
from dni_deploy.jobs.ray_options import RayOptions
from dni_deploy.session.options import SessionOptions
from dni_deploy.video_io.resume import job_folder_path
from dni_deploy.video_io.segments import SegmentWriter
from tests.support.frame_session import Dimmer, opener
from tests.support.local_workers import LocalWorkers, replace_cluster
from tests.support.segment_jobs import Outcome, finish, make_request, make_whole
from tests.support.video_clips import Clip
from tests.support.video_command import MEMBERS


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> Dimmer:
    dimmer = Dimmer((1.0, 0.0))
    monkeypatch.setattr(verb, "open_session", opener(dimmer, MEMBERS))
    return dimmer


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[LocalWorkers]:
    return replace_cluster(monkeypatch, video_cluster)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty frames, eight segments."""
    return Clip(frames=40, audio=None).write(tmp_path_factory.mktemp("clip") / "in.mkv")


def make_on_cluster(source: Path, output: Path, **changed: Any) -> verb.VideoReport:
    return video_on_cluster(**{**vars(make_request(source, output)), **changed}, ray_options=RayOptions(ray="auto", cpus=3))


def finish_on_cluster(source: Path, output: Path) -> Outcome:
    return finish(lambda: make_on_cluster(source, output), output)


def test_all_workers_together_make_the_video(tmp_path: Path, source: Path, opened: list[LocalWorkers]) -> None:
    whole, reports = make_whole(source, tmp_path / "whole.mkv"), []
    report = make_on_cluster(source, tmp_path / "out.mkv", progress=lambda *report: reports.append(report))
    assert (report.frames, report.resumed_frames, report.engine) == (40, 0, "dimmer")
    assert (tmp_path / "out.mkv").read_bytes() == whole.data
    assert (tmp_path / "out.jsonl").read_bytes() == whole.log
    assert not job_folder_path(tmp_path / "out.mkv").exists()
    assert (0, 40, "3 of 3 workers") in reports
    (workers,) = opened
    assert workers.options["engine"] == "auto"
    assert source in workers.options["other_paths"]
    assert workers._factories[0].request.options.threads == 3


def test_what_is_there_is_kept(
    tmp_path: Path, source: Path, opened: list[LocalWorkers], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, output, close = make_whole(source, tmp_path / "whole.mkv"), tmp_path / "out.mkv", SegmentWriter.close

    def fail(writer: SegmentWriter) -> Any:
        if writer._first_frame == 5:
            raise EngineError("The device is gone.")
        return close(writer)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentWriter, "close", fail)
        with pytest.raises(
            PartialResultError, match=r"1 of 8 units failed.* same command again for them\. The device is gone\."
        ):
            make_on_cluster(source, output)
        with pytest.raises(EngineError, match=r"^The device is gone\.$"):
            make_on_cluster(source, output)
    assert sum(row.error is None for row in read_rows(job_folder_path(output))) == 7
    assert make_on_cluster(source, output).resumed_frames == 35
    assert output.read_bytes() == whole.data
    output.unlink()
    assert make_on_cluster(source, output, fresh=True, force=True).resumed_frames == 0


def test_video_goes_on_where_a_cluster_stopped(
    tmp_path: Path, source: Path, opened: list[LocalWorkers], monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts, close = [], SegmentWriter.close

    def fail(writer: SegmentWriter) -> Any:
        attempts.append(writer)
        if len(attempts) == 4:
            raise OSError(28, "No space left on device")
        return close(writer)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentWriter, "close", fail)
        with pytest.raises(LimitError, match="could not be written"):
            make_on_cluster(source, tmp_path / "out.mkv")
    assert len(attempts) == 4  # a full disk ends the job
    assert verb.video(**vars(make_request(source, tmp_path / "out.mkv"))).resumed_frames == 15
    assert (tmp_path / "out.mkv").read_bytes() == make_whole(source, tmp_path / "whole.mkv").data


def test_a_damaged_video_loses_what_one_run_loses(tmp_path: Path, opened: list[LocalWorkers]) -> None:
    """The packets promise 40 frames. The worker that meets the damage lists them anew, and the units are planned anew."""
    source = Clip(frames=40, audio=None).write(tmp_path / "in.mp4")
    data = bytearray(source.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    source.write_bytes(data)
    whole = make_whole(source, tmp_path / "whole.mkv")
    outcome = finish_on_cluster(source, tmp_path / "out.mkv")
    assert len(opened) == 2
    assert "about" in whole.error
    assert outcome[1:] == whole[1:]


def test_what_a_cluster_cannot_do_is_refused(tmp_path: Path, source: Path, opened: list[LocalWorkers]) -> None:
    class Live:
        def at(self, seconds: float, frame: int) -> Coefficients:
            return Coefficients(MEMBERS, (1.0, 0.0))

    with pytest.raises(UsageError, match="set from outside"):
        make_on_cluster(source, tmp_path / "out.mkv", alpha=Live())
    with pytest.raises(UsageError, match="--device 1: on a cluster"):
        make_on_cluster(source, tmp_path / "out.mkv", options=SessionOptions(device=1))
    assert not list(tmp_path.iterdir())


def test_without_ray_nothing_is_begun(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("dni_deploy.jobs.ray_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UnavailableError, match=r"package 'ray', which is not installed: pip install .*ray"):
        make_on_cluster(source, tmp_path / "out.mkv")
    assert not list(tmp_path.iterdir())


def test_a_cluster_that_does_not_answer_leaves_nothing(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> Any:
        raise UnavailableError("No Ray cluster answers at h:1: connection refused.")

    replace_cluster(monkeypatch, video_cluster)
    monkeypatch.setattr(video_cluster, "open_ray_workers", refuse)
    with pytest.raises(UnavailableError, match="answers at h:1"):
        make_on_cluster(source, tmp_path / "out.mkv")
    assert not list(tmp_path.iterdir())


def test_several_videos_share_a_connection(
    tmp_path: Path, source: Path, opened: list[LocalWorkers], monkeypatch: pytest.MonkeyPatch
) -> None:
    connections: list[RayOptions] = []

    def connect(options: RayOptions) -> Any:
        connections.append(options)
        return nullcontext()

    monkeypatch.setattr(videos_module, "import_optional", lambda module: SimpleNamespace(connect_cluster=connect))
    request = make_request(source, tmp_path)
    shutil.copy(source, tmp_path / "other.mkv")
    (tmp_path / "out").mkdir()
    options = RayOptions(ray="auto")
    names = [source, tmp_path / "other.mkv"]
    reports = videos_module.videos(
        request.bundle_path, names, tmp_path / "out", request.alpha, ray_options=options, encoder=request.encoder
    )
    assert [report.frames for report in reports] == [40, 40]
    assert connections == [options]
    assert len(opened) == 2
