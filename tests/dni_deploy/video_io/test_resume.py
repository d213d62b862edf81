"""A stopped job resumes after its last complete segment, and the video equals that of an uninterrupted run."""

from __future__ import annotations

import ast
import errno
import json
import multiprocessing
import multiprocessing.process
import os
import random
import shutil
import signal
import time
from copy import copy
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.curves import AlphaCurve
from dni_deploy.alpha.plane_path import PlanePath
from dni_deploy.alpha.timeline import AlphaSource, AlphaTimeline
from dni_deploy.api import video as verb
from dni_deploy.api.video_settings import digest_alpha_source
from dni_deploy.errors import BusyError, EngineError, InputError, LimitError, UsageError
from dni_deploy.video_io.frame_index import FrameIndex
from dni_deploy.video_io.reader import VideoReader
from dni_deploy.video_io.resume import job_folder_path, open_job
from dni_deploy.video_io.segments import FrameAlphaRecord, SegmentWriter, open_segment
from tests.dni_deploy.video_io.test_segments import make_packet, write_segment
from tests.support import killable_video_job
from tests.support.frame_session import Dimmer
from tests.support.video_clips import Clip
from tests.support.video_command import Make

ROOT = Path(__file__).parents[3]
FRAMES = 20
KILLS = 3
"""In the fast suite; 20 in the slow one."""


class Stops(Exception):
    """Represents a stop from outside, such as Ctrl-C."""


def stop_engine_after(engine: Dimmer, monkeypatch: pytest.MonkeyPatch, after: int, error: BaseException) -> None:
    """Makes the engine raise an error after this many more frames; in one slot, where no later frame overtakes an earlier one."""
    monkeypatch.setattr(engine, "slots", 1)
    real, frame_count = Dimmer.infer, [0]

    def infer(slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        frame_count[0] += 1
        if frame_count[0] == after + 1:
            raise error
        return real(engine, slot, x)

    monkeypatch.setattr(engine, "infer", infer)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("stop", [0, 7, 8, 9, 19])
def test_stopped_jobs_are_resumed(
    tmp_path: Path, make: Make, engine: Dimmer, monkeypatch: pytest.MonkeyPatch, stop: int, suffix: str
) -> None:
    source = Clip().write(tmp_path / "in.mp4")
    alpha = "0:a=1, 0.7s:a=0.5"
    make(source, tmp_path / f"whole{suffix}", alpha, alpha_log=tmp_path / "whole.jsonl")
    output = tmp_path / f"out{suffix}"
    stop_engine_after(engine, monkeypatch, stop, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        make(source, output, alpha, alpha_log=tmp_path / "out.jsonl")
    assert not output.exists()
    # Up to 8 frames wait for the writer and are dropped; without a complete segment nothing is left.
    assert job_folder_path(output).exists() == (stop == 19) or stop in (8, 9)
    report = make(source, output, alpha, alpha_log=tmp_path / "out.jsonl")
    assert report.resumed_frames in ((0,) if stop < 8 else (0, 8) if stop < 16 else (8, 16))
    assert output.read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not job_folder_path(output).exists()


MEMBERS = ("a", "b", "c")
PATH = {
    "plane": {"a": [0, 0], "b": [1, 0], "c": [0, 1]},
    "keyframes": [{"time": 0, "at": [0, 0]}, {"time": 2, "at": [0.5, 0.25]}],
}
SOURCES: dict[str, tuple[AlphaSource, str]] = {
    "AlphaTimeline": (
        AlphaTimeline.parse("0:a=1, 2s:b=1", MEMBERS),
        "31d760395f5962c75a4bec7ebd178c018d135efd69d9a20f1e51146e4039617f",
    ),
    "AlphaCurve": (
        AlphaCurve.parse("sine(period=4s, from=a, to=b)", MEMBERS),
        "f8743cc0869722c6b6ee83b09694e98183154a2881e4e25aa0e493988d307334",
    ),
    "PlanePath": (PlanePath.from_json(PATH, MEMBERS), "a059c276f350d4a9083d4239612aa7c73246920b65621d5410ada712e35d9350"),
}
"""Each alpha source with its fixed kind, and its digest in the identity of existing stopped jobs."""


@pytest.mark.parametrize("kind", SOURCES)
def test_the_job_identity_of_alpha_sources_is_fixed(kind: str) -> None:
    """A stopped job keeps its identity across versions and renamed classes."""
    source, digest = SOURCES[kind]
    assert vars(type(source))["kind"] == kind
    assert digest_alpha_source(source) == digest
    renamed = copy(source)
    object.__setattr__(renamed, "__class__", type("RenamedSource", (type(source),), {}))
    assert type(renamed).__name__ == "RenamedSource"
    assert digest_alpha_source(renamed) == digest


def test_every_resumable_alpha_source_has_a_fixed_identity() -> None:
    """Resumable sources have `to_json`; the kind has to be fixed before it is stored in any job folder."""
    root = ROOT / "dni_deploy"
    class_names = set()
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.ClassDef):
                continue
            methods = {part.name: part for part in node.body if isinstance(part, ast.FunctionDef)}
            if (
                "to_json" in methods
                and "at" in methods
                and [one.arg for one in methods["at"].args.args[1:]] == ["seconds", "frame"]
                and ast.unparse(methods["at"].returns or ast.Constant(None)) == "Coefficients"  # a control's is a number
            ):
                class_names.add(node.name)
    assert len(class_names) == len(SOURCES)
    assert class_names == {type(source).__name__ for source, _ in SOURCES.values()}


def test_a_custom_source_is_identified_by_its_class() -> None:
    """It need not have a kind, and keeps the identity that it had before kinds existed."""

    class Steps:
        def at(self, seconds: float, frame: int) -> Coefficients:
            return Coefficients(("a", "b"), np.array([1.0, 0.0]))

        def to_json(self) -> dict[str, int]:
            return {"steps": 3}

    assert digest_alpha_source(Steps()) == sha256(b'["Steps", {"steps": 3}]').hexdigest()


def test_changed_settings_are_refused_unless_fresh(
    tmp_path: Path, make: Make, engine: Dimmer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Clip(audio=None).write(tmp_path / "in.mp4")
    output = tmp_path / "out.mp4"
    stop_engine_after(engine, monkeypatch, 19, EngineError("The device is gone."))
    with pytest.raises(EngineError, match="The device is gone"):
        make(source, output, 1.0)
    for changed, message in (
        ({"crf": 9}, "encoder"),
        ({"alpha": 0.5}, "alpha"),
        ({"digest": "1" * 64}, "bundle"),
        ({"tile": 16}, "tiles"),
    ):
        with pytest.raises(UsageError, match=f"differs in: {message}.*--fresh"):
            make(source, output, **changed)
    os.utime(source, (1, 1))
    with pytest.raises(UsageError, match="differs in: film"):
        make(source, output, 1.0)
    assert make(source, output, 1.0, crf=9, fresh=True).resumed_frames == 0


def stop_with_all_segments(
    make: Make, engine: Dimmer, monkeypatch: pytest.MonkeyPatch, source: Path, output: Path, alpha: str
) -> Path:
    """Runs a job whose 20 frames are all in segments, and stops it while it is put together; returns its folder."""

    def stop(*args: object) -> None:
        raise Stops

    with monkeypatch.context() as patch:
        patch.setattr(verb, "mux_segments", stop)
        with pytest.raises(Stops):
            make(source, output, alpha, alpha_log=output.with_suffix(".jsonl"))
    folder = job_folder_path(output)
    assert sorted(entry.name for entry in folder.glob("*.segment")) == [f"{number:06d}.segment" for number in range(3)]
    return folder


@pytest.mark.parametrize("lost", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("is_damaged", [False, True], ids=["absent", "damaged"])
def test_a_gap_is_filled_and_the_rest_is_kept(
    tmp_path: Path, make: Make, engine: Dimmer, monkeypatch: pytest.MonkeyPatch, lost: tuple[int, ...], is_damaged: bool
) -> None:
    source, output, whole = Clip(audio=None).write(tmp_path / "in.mp4"), tmp_path / "out.mp4", tmp_path / "whole.mp4"
    alpha = "0:a=1, 0.2s:a=0.75, 0.4s:a=0.75, 0.7s:a=0.5"
    make(source, whole, alpha, alpha_log=tmp_path / "whole.jsonl")
    folder = stop_with_all_segments(make, engine, monkeypatch, source, output, alpha)
    for number in lost:
        path = folder / f"{number:06d}.segment"
        data = bytearray(path.read_bytes())
        data[100] ^= 1
        path.unlink()
        if is_damaged:
            path.write_bytes(data)
            assert open_segment(path) is None
    rendered, infer = [], engine.infer
    monkeypatch.setattr(engine, "infer", lambda slot, x: (rendered.append(slot), infer(slot, x))[1])
    report = make(source, output, alpha, alpha_log=output.with_suffix(".jsonl"))
    sizes = {0: 8, 1: 8, 2: 4}
    assert len(rendered) == sum(sizes[number] for number in lost)
    assert report.resumed_frames == 20 - len(rendered)
    assert output.read_bytes() == whole.read_bytes()
    assert output.with_suffix(".jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert any(f"{len(lost)} segments of the stopped run were damaged" in note for note in report.notes) == is_damaged
    assert not folder.exists()


def test_a_folder_that_is_no_job_is_refused_and_not_touched(tmp_path: Path, make: Make) -> None:
    source, output = Clip(audio=None, frames=2).write(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    folder = job_folder_path(output)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def check_is_refused(message: str) -> None:
        for fresh in (False, True):
            with pytest.raises(UsageError, match=f"{message}.*nothing in it was touched"):
                make(source, output, fresh=fresh)

    folder.mkdir()
    (folder / "000000.segment").write_bytes(b"mine")
    check_is_refused("is no stopped job")
    (folder / "job.json").write_text('{"name": "another program"}')
    check_is_refused("is no stopped job")
    assert {entry.name for entry in folder.iterdir()} == {"000000.segment", "job.json"}
    shutil.rmtree(folder)
    folder.symlink_to(elsewhere)
    check_is_refused("is a link")
    assert not list(elsewhere.iterdir())
    folder.unlink()
    folder.write_text("a file")
    check_is_refused("is not a folder")
    assert folder.read_text() == "a file"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no owners")
def test_a_folder_of_another_user_is_refused(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Clip(audio=None, frames=2).write(tmp_path / "in.mp4")
    job_folder_path(tmp_path / "out.mp4").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(UsageError, match="belongs to another user"):
        make(source, tmp_path / "out.mp4")


def test_links_are_not_followed_and_foreign_files_stay(
    tmp_path: Path, make: Make, engine: Dimmer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = Clip(audio=None).write(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    folder = stop_with_all_segments(make, engine, monkeypatch, source, output, "1")
    target = (folder / "000001.segment").rename(tmp_path / "target")
    content = target.read_bytes()
    (folder / "000001.segment").symlink_to(target)
    (folder / "notes.txt").write_text("mine")
    assert make(source, output, "1", alpha_log=output.with_suffix(".jsonl")).resumed_frames == 12
    assert target.read_bytes() == content
    assert [entry.name for entry in folder.iterdir()] == ["notes.txt"]
    with pytest.raises(UsageError, match="is no stopped job"):
        make(source, output, "1", force=True)


@pytest.mark.parametrize("removed", [0, 1, 4, 5])
def test_a_run_that_was_killed_after_its_end_leaves_no_folder(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch, removed: int
) -> None:
    """The output has its name, and some of the files of the job are removed; the command given again removes the rest."""
    source, output = Clip(audio=None).write(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    unlink, count = os.unlink, [0]

    def stop(path: Any) -> None:
        if output.exists() and str(path).startswith(str(job_folder_path(output))):
            count[0] += 1
            if count[0] > removed:
                raise Stops
        unlink(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", stop)
        with pytest.raises(Stops):
            make(source, output)
    content = output.read_bytes()
    assert len(list(job_folder_path(output).iterdir())) == 6 - removed  # three segments, the description, the mark, the lock
    with pytest.raises(UsageError, match="exists; give --force"):
        make(source, output)
    assert [entry.name for entry in tmp_path.iterdir() if entry != source] == ["out.mp4"]
    assert output.read_bytes() == content


def test_a_stopped_job_stays_where_its_output_is_of_another_run(
    tmp_path: Path, make: Make, engine: Dimmer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = Clip(audio=None).write(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    folder = stop_with_all_segments(make, engine, monkeypatch, source, output, "1")
    output.write_bytes(b"another")
    with pytest.raises(UsageError, match="exists; give --force"):
        make(source, output, "1", alpha_log=output.with_suffix(".jsonl"))
    assert len(list(folder.glob("*.segment"))) == 3
    report = make(source, output, "1", alpha_log=output.with_suffix(".jsonl"), force=True)
    assert report.resumed_frames == 20


def test_a_gap_that_cannot_be_filled_is_no_video(
    tmp_path: Path, make: Make, engine: Dimmer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = Clip(audio=None).write(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    folder = stop_with_all_segments(make, engine, monkeypatch, source, output, "1")
    (folder / "000001.segment").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(VideoReader, "__iter__", lambda reader: iter(()))
        with pytest.raises(InputError, match="Frames 8 to 15 of the video could not be read this time; others are done"):
            make(source, output, "1", alpha_log=output.with_suffix(".jsonl"))
    assert make(source, output, "1", alpha_log=output.with_suffix(".jsonl")).resumed_frames == 12


def test_two_attempts_at_one_segment_never_share_a_file(tmp_path: Path) -> None:
    writers = [SegmentWriter(tmp_path, 0, 0) for _ in range(2)]
    assert len({entry.name for entry in tmp_path.iterdir()}) == 2
    for pts, writer in enumerate(writers):
        writer.add_frame(pts, 1, FrameAlphaRecord(0.0, 1, (1.0,)))
        writer.add_packet(make_packet(pts, b"packet"))
    for pts, writer in enumerate(writers):
        segment = writer.close()
        assert open_segment(segment.path) == segment
        assert segment.read_footer().frame_times == ((pts, 1),)
    assert [entry.name for entry in tmp_path.iterdir()] == ["000000.segment"]


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, LimitError), (errno.EIO, InputError)])
def test_a_full_or_failing_disk_keeps_complete_segments(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    source = Clip(audio=None).write(tmp_path / "in.mp4")
    real = SegmentWriter._write

    def write(writer: SegmentWriter, data: bytes) -> None:
        if writer._first_frame == 16:
            raise OSError(number, os.strerror(number))
        real(writer, data)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentWriter, "_write", write)
        with pytest.raises(kind, match=os.strerror(number)):
            make(source, tmp_path / "out.mp4")
    assert make(source, tmp_path / "out.mp4").resumed_frames == 16


def test_a_segment_under_the_name_of_another_is_made_again(tmp_path: Path) -> None:
    with open_job(tmp_path / "out.mp4", {}, segment_frames=4) as job:
        for number in (0, 1):
            job.add_segment(write_segment(job.folder, number=number, first_frame=4 * number).close())
    (job.folder / "000001.segment").replace(job.folder / "000000.segment")
    with open_job(tmp_path / "out.mp4", {}, segment_frames=4) as job:
        assert (job.frames, job.damaged_segments) == (0, 1)


def test_a_short_segment_before_others_is_made_again(tmp_path: Path) -> None:
    with open_job(tmp_path / "out.mp4", {}, segment_frames=8) as job:
        for number in (0, 1):  # of 4 frames each
            job.add_segment(write_segment(job.folder, number=number, first_frame=8 * number).close())
    with open_job(tmp_path / "out.mp4", {}, segment_frames=8) as job:
        times = [pts for pts, _ in job.stored_segments[1].read_footer().frame_times]
        index = FrameIndex((*range(-8 * 9, 0, 9), *times), 0, 12)
        assert job.keep_segments_of(index)
        assert (list(job.stored_segments), job.frames) == ([1], 4)


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, LimitError), (errno.EIO, InputError)])
def test_a_job_folder_that_cannot_be_made_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    def sync_folder(path: Path) -> None:
        raise OSError(number, os.strerror(number))  # as fsync raises it, without a name

    monkeypatch.setattr("dni_deploy.video_io.resume.sync_folder", sync_folder)
    with (
        pytest.raises(kind, match=r"job folder .* cannot be made .*Nothing was written"),
        open_job(tmp_path / "out.mp4", {}, segment_frames=8),
    ):
        pytest.fail("entered")


def test_a_job_with_the_former_color_conversion_is_not_continued(tmp_path: Path) -> None:
    """The transition between segments of both would be visible."""
    with open_job(tmp_path / "out.mp4", {"alpha": 1}, segment_frames=8) as job:
        path = job.folder / "job.json"
    path.write_text(json.dumps({"schema": 1, "alpha": 1}))
    with pytest.raises(UsageError, match="differs in: schema"), open_job(tmp_path / "out.mp4", {"alpha": 1}, segment_frames=8):
        pass


def test_two_jobs_on_one_output_are_refused(tmp_path: Path, make: Make) -> None:
    source = Clip(audio=None).write(tmp_path / "in.mp4")
    with open_job(tmp_path / "out.mp4", {}, segment_frames=8), pytest.raises(BusyError, match="Another run"):
        make(source, tmp_path / "out.mp4")


PROCESSES = multiprocessing.get_context("forkserver")
"""Starts processes that have already imported everything; a fresh interpreter would need seconds for each of them."""


def start_job(source: Path, output: Path, pause: float) -> multiprocessing.process.BaseProcess:
    PROCESSES.set_forkserver_preload(["tests.support.killable_video_job"])
    arguments = (source, output, pause, output.with_suffix(".error"))
    child = PROCESSES.Process(target=killable_video_job.run_child, args=arguments, daemon=True)
    child.start()
    return child


def finish_job(source: Path, output: Path, pause: float = 0.0) -> str:
    """Runs the job to its end; returns the message of its error, or nothing."""
    child = start_job(source, output, pause)
    child.join(60)
    error_path = output.with_suffix(".error")
    assert child.exitcode == int(error_path.exists())
    if not error_path.exists():
        return ""
    message = error_path.read_text()
    error_path.unlink()
    return message


def kill_job(source: Path, output: Path, seconds: float, pause: float) -> bool:
    """Starts the job and kills it that many seconds after its folder appeared; returns whether it was killed before it ended."""
    child = start_job(source, output, pause)
    give_up_at = time.monotonic() + 60
    while not job_folder_path(output).exists() and child.is_alive() and time.monotonic() < give_up_at:
        time.sleep(0.002)
    child.join(seconds)
    child.kill()
    child.join(60)
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


def kill_and_resume(tmp_path: Path, count: int) -> None:
    """Kills a job at random points; each time the output is absent or complete, and finally equal to the uninterrupted run."""
    source = Clip(frames=FRAMES).write(tmp_path / "in.mp4")
    uninterrupted = tmp_path / "whole" / "out.mp4"
    uninterrupted.parent.mkdir()
    pause = 0.02
    assert finish_job(source, uninterrupted, pause) == ""
    rng, done = random.Random(count), 0
    while done < count:
        output = tmp_path / f"run{done}" / "out.mp4"
        output.parent.mkdir(exist_ok=True)
        # 20 frames of 20 ms, then some 30 ms until the video is put together and has its name.
        if not kill_job(source, output, rng.uniform(0, FRAMES * pause + 0.05), pause):
            assert output.read_bytes() == uninterrupted.read_bytes()
            output.unlink()
            output.with_suffix(".jsonl").unlink()
            continue
        done += 1
        is_published = output.exists()
        message = finish_job(source, output)
        if is_published:  # before it was killed; it is not replaced without --force
            assert "out.mp4 exists; give --force" in message
        else:
            assert message == ""
            assert sorted(entry.name for entry in output.parent.iterdir()) == ["out.jsonl", "out.mp4"]
        assert output.read_bytes() == uninterrupted.read_bytes()
        assert output.with_suffix(".jsonl").read_bytes() == uninterrupted.with_suffix(".jsonl").read_bytes()


def test_a_job_killed_at_random_points_is_resumed(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, KILLS)


@pytest.mark.slow
def test_a_job_killed_at_twenty_random_points_is_resumed(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, 20)
