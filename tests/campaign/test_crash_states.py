"""A power cut at any moment leaves the old one or the new one, whole, of whatever is written; after success it is the new one."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.log import AlphaLog
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.writer import store_calibration, store_slider
from dni_deploy.imaging.image_file import ImageFile, read_image, write_image
from dni_deploy.utils import atomic_write
from dni_deploy.utils.atomic_write import write_bytes, write_bytes_atomically, write_file_atomically, write_folder_atomically
from dni_deploy.utils.private_file import write_private_file
from dni_deploy.video_io.resume import open_job
from tests.campaign.crash_states import CrashRecorder, Tree, record_crash_states, write_tree
from tests.dni_deploy.video_io.test_segments import write_segment
from tests.support import pico_bundle as pico

ROOT = Path(__file__).parents[2]
OLD, NEW = b"old " * 9, b"the new one " * 7

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="names of descriptors are read from /proc")


def find_temporaries(tree: Tree) -> Tree:
    """What a killed writer leaves beside its target: removed by the next one, and nobody reads it."""
    return {path: content for path, content in tree.items() if any(".part" in part for part in path.split("/"))}


def drop_temporaries(tree: Tree) -> Tree:
    return {path: content for path, content in tree.items() if path not in find_temporaries(tree)}


@dataclass
class Writer:
    """A writer, and how to judge what it left.

    Attributes:
        prepare: Makes what is there before.
        write: Writes; gets the same folder.
        judge: Tells from a folder with a state in it whether that is "old" or "new", or raises.
    """

    prepare: Callable[[Path], object]
    write: Callable[[Path], object]
    judge: Callable[[Path], str]


def judge_file(name: str, old: bytes | None = OLD, new: bytes = NEW) -> Callable[[Path], str]:
    def judge(folder: Path) -> str:
        path = folder / name
        content = path.read_bytes() if path.exists() else None
        assert content in (old, new), f"{name} is {content!r}"
        return "new" if content == new else "old"

    return judge


def judge_folder(folder: Path) -> str:
    if not (folder / "x").exists() or not list((folder / "x").iterdir()):
        return "old"
    assert {path.name: path.read_bytes() for path in (folder / "x").iterdir()} == {"one": OLD, "two": NEW}
    return "new"


def write_folder(folder: Path, force: bool = False) -> None:
    with write_folder_atomically(folder / "x", force=force) as temporary:
        (temporary / "one").write_bytes(OLD)
        write_bytes(temporary / "two", NEW)


def judge_bundle(old_digest: str | None, check_new: Callable[[Bundle], bool]) -> Callable[[Path], str]:
    def judge(folder: Path) -> str:
        if old_digest is None and not (folder / "x.dni").exists():
            return "old"
        bundle = Bundle.open(folder / "x.dni")
        for member in bundle.members:
            bundle.read_weights(member)
        bundle.read_graph()
        if bundle.digest == old_digest:
            return "old"
        assert check_new(bundle)
        return "new"

    return judge


@pytest.fixture(scope="module")
def old_digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pico.write(tmp_path_factory.mktemp("old") / "x.dni").digest


def put(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(OLD)


def put_bundle(folder: Path) -> Bundle:
    return pico.write(folder / "x.dni")


def write_with_a_library(folder: Path) -> None:
    with write_file_atomically(folder / "x.npy", force=True) as temporary:
        np.save(temporary, np.arange(40))


def judge_array(folder: Path) -> str:
    if not (folder / "x.npy").exists():
        return "old"
    assert np.load(folder / "x.npy").sum() == 780
    return "new"


def write_log(folder: Path, force: bool = False) -> None:
    with AlphaLog(folder / "x.jsonl", ("a", "b"), force=force) as log:
        for frame in range(3):
            log.write(frame, frame / 25, 1, Coefficients(("a", "b"), (0.25, 0.75)))


def judge_log(folder: Path) -> str:
    """A log is written line by line, under its own name: what is there is the beginning of it, and after its end all of it."""
    path = folder / "x.jsonl"
    if not path.exists() or not path.read_bytes().count(b"\n"):
        return "old"
    return "new" if len(list(AlphaLog.read_entries(path))) == 3 else "old"


DESCRIPTION = {"of": "the test"}


def write_two_segments(folder: Path) -> None:
    """A stopped job: what is left must resume with each segment that was closed, and never with half of one."""
    with open_job(folder / "x.mkv", DESCRIPTION, segment_frames=4) as job:
        for number in (0, 1):
            job.add_segment(write_segment(job.folder, number=number, first_frame=4 * number).close())


def judge_job(folder: Path) -> str:
    with open_job(folder / "x.mkv", DESCRIPTION, segment_frames=4) as job:
        for segment in job.segments:
            assert len(list(segment.read_packets())) == 4
            assert len(segment.read_footer().alphas) == 4
        return "new" if len(job.segments) == 2 else "old"


def publish_job(folder: Path) -> None:
    """As `video` does at its end: the output gets its name while the job's segments are there, and then they go."""
    with open_job(folder / "x.mkv", DESCRIPTION, segment_frames=4) as job:
        with write_file_atomically(folder / "x.mkv", force=True) as temporary:
            temporary.write_bytes(NEW)
            job.mark_published(temporary)
        job.remove()


def judge_published_job(folder: Path) -> str:
    """Either the output is whole, or the segments are."""
    content = (folder / "x.mkv").read_bytes() if (folder / "x.mkv").exists() else None
    if content == NEW:
        return "new"
    assert content in (None, OLD)
    assert judge_job(folder) == "new"
    return "old"


def replace_picture(folder: Path) -> None:
    write_image(folder / "x.png", ImageFile(np.full((4, 5, 3), 200, np.uint8)), force=True)


def judge_picture(folder: Path) -> str:
    return {9: "old", 200: "new"}[int(read_image(folder / "x.png").rgb.mean())]


FILE_WRITERS = {
    "new file": Writer(lambda folder: None, lambda folder: write_bytes_atomically(folder / "x", NEW), judge_file("x", None)),
    "replaced file": Writer(put("x"), lambda folder: write_bytes_atomically(folder / "x", NEW, force=True), judge_file("x")),
    "private file": Writer(put("x"), lambda folder: write_private_file(folder / "x", (NEW[:5], NEW[5:]), force=True), judge_file("x")),
    "a library's file": Writer(lambda folder: None, write_with_a_library, judge_array),
    "new folder": Writer(lambda folder: None, write_folder, judge_folder),
    "empty folder": Writer(lambda folder: (folder / "x").mkdir(), lambda folder: write_folder(folder, force=True), judge_folder),
    "picture": Writer(
        lambda folder: write_image(folder / "x.png", ImageFile(np.full((4, 5, 3), 9, np.uint8))), replace_picture, judge_picture
    ),
    "alpha log": Writer(lambda folder: None, write_log, judge_log),
    "stopped job": Writer(lambda folder: None, write_two_segments, judge_job),
    "published job": Writer(write_two_segments, publish_job, judge_published_job),
}  # fmt: skip

BUNDLE_WRITERS: dict[str, tuple[bool, Callable[[Path], object], Callable[[Bundle], bool]]] = {
    "new bundle": (False, put_bundle, lambda bundle: bundle.members == ("a", "b")),
    "replaced bundle": (
        True,
        lambda path: pico.write(path / "x.dni", force=True, count=3),
        lambda bundle: len(bundle.members) == 3,
    ),
    "same bundle": (True, lambda path: pico.write(path / "x.dni", force=True), lambda bundle: False),
    "slider": (
        True,
        lambda path: store_slider(Bundle.open(path / "x.dni"), [(0, 0), (0.5, 0.75), (1, 1)]),
        lambda bundle: bundle.manifest.slider is not None,
    ),
    "calibration": (
        True,
        lambda path: store_calibration(Bundle.open(path / "x.dni"), b"calibration"),
        lambda bundle: bundle.manifest.calibration is not None,
    ),
}


def run_writer(writer: Writer, folder: Path, scratch: Path, *, keeps_old: bool = False) -> CrashRecorder:
    """Records a writer and judges every state.

    Args:
        writer: The writer.
        folder: A new folder for it.
        scratch: A folder for states.
        keeps_old: Whether old and new are the same, so that nothing counts as new.
    """
    folder.mkdir()
    writer.prepare(folder)
    with record_crash_states(folder) as recorder:
        writer.write(folder)
    judged = {"old": 0, "new": 0}
    for tree in recorder.states.values():
        write_tree(tree, scratch)
        judged[writer.judge(scratch)] += 1
    assert judged["old"]
    for tree in recorder.list_states():
        write_tree(tree, scratch)
        assert writer.judge(scratch) == ("old" if keeps_old else "new"), f"lost after success: {sorted(tree)}"
        assert not find_temporaries(tree), f"a temporary may come back: {sorted(tree)}"
    return recorder


@pytest.mark.parametrize("name", FILE_WRITERS)
def test_a_power_cut_leaves_the_old_or_the_new_file(tmp_path: Path, name: str) -> None:
    recorder = run_writer(FILE_WRITERS[name], tmp_path / "disk", tmp_path / "state")
    assert len(recorder.states) > 3


@pytest.mark.parametrize("name", BUNDLE_WRITERS)
def test_a_power_cut_leaves_the_old_or_the_new_bundle(tmp_path: Path, old_digest: str, name: str) -> None:
    has_old, write, check_new = BUNDLE_WRITERS[name]
    prepare: Callable[[Path], object] = put_bundle if has_old else lambda folder: None
    writer = Writer(prepare, write, judge_bundle(old_digest if has_old else None, check_new))
    recorder = run_writer(writer, tmp_path / "disk", tmp_path / "state", keeps_old=name == "same bundle")
    assert len(recorder.states) > 4


def test_a_file_system_without_hard_links_reserves_the_name_with_an_empty_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", link)
    writer = FILE_WRITERS["new file"]

    def judge(folder: Path) -> str:  # the only state that is neither: an empty file where nothing was
        return "old" if (folder / "x").exists() and not (folder / "x").read_bytes() else writer.judge(folder)

    run_writer(Writer(writer.prepare, writer.write, judge), tmp_path / "disk", tmp_path / "state")


def drop_file_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_write, "_sync_file", lambda path: None)


def drop_folder_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_write, "sync_folder", lambda path: None)


def rename_before_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    real_sync, real_move = atomic_write._sync_file, atomic_write._move_into_place

    def move(temporary: Path, target: Path, force: bool) -> None:
        real_move(temporary, target, force)
        real_sync(target)

    monkeypatch.setattr(atomic_write, "_sync_file", lambda path: None)
    monkeypatch.setattr(atomic_write, "_move_into_place", move)


@pytest.mark.parametrize(
    ("defect", "names"),
    [
        (drop_file_sync, ("new file", "replaced file", "private file", "a library's file", "new folder")),
        (drop_folder_sync, ("new file", "replaced file", "private file", "new folder", "empty folder")),
        (rename_before_sync, ("new file", "replaced file", "private file")),
    ],
)
def test_a_writer_that_forgets_to_flush_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, defect: Callable[[pytest.MonkeyPatch], None], names: tuple[str, ...]
) -> None:
    defect(monkeypatch)
    for name in names:
        with pytest.raises((AssertionError, ValueError, EOFError)):
            run_writer(FILE_WRITERS[name], tmp_path / f"disk {name}", tmp_path / "state")


def test_a_manifest_that_is_replaced_before_its_files_is_found(
    tmp_path: Path, old_digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dni_deploy.bundle import writer as module

    real = module.build_bundle_files
    monkeypatch.setattr(module, "build_bundle_files", lambda *arguments: reversed(list(real(*arguments))))
    judge = judge_bundle(old_digest, lambda bundle: True)
    with pytest.raises(Exception, match="is incomplete"):
        run_writer(
            Writer(put_bundle, lambda path: pico.write(path / "x.dni", force=True, count=3), judge),
            tmp_path / "disk",
            tmp_path / "state",
        )


OWN_WRITERS = {
    "dni_deploy/alpha/log.py": "line by line under its own name; tried above",
    "dni_deploy/bundle/remote.py": "a lock",
    "dni_deploy/cli/standard_streams.py": "a temporary copy of stdin, and stdout",
    "dni_deploy/jobs/description.py": "a lock",
    "dni_deploy/jobs/manifest.py": "rows of done units, of which a cut one is made again",
    "dni_deploy/storage/staging.py": "copies of what is at an address, compared with it before they are used",
    "dni_deploy/utils/atomic_write.py": "tried above",
    "dni_deploy/utils/private_file.py": "tried above",
    "dni_deploy/video_io/mux.py": "into the temporary path of an atomic write, and into nothing to try a format",
    "dni_deploy/video_io/pipe.py": "nothing: /dev/null",
    "dni_deploy/video_io/resume.py": "a lock, and a damaged segment set aside; tried above",
    "dni_deploy/video_io/segments.py": "tried above",
    "dni_deploy/video_io/streams.py": "nothing: /dev/null",
    "dni_deploy/webui/sources.py": "temporary files of uploads",
    "dni_deploy/cli/dispatch.py": "nothing: /dev/null",
    "engines/cuda/compile.py": "a tool for developers",
    "engines/onnxruntime_cpu/runtime.py": "a temporary folder",
    "exporters/export_in_child.py": "a temporary folder",
}
"""Modules that write otherwise than through utils/atomic_write, and what; none of it may be lost, or it is tried here."""

WRITE_CALL = re.compile(
    r"(os|shutil)\.(replace|rename|link|truncate|copy|copyfile|copyfileobj|copytree|move)\(|\.write_(bytes|text)\(|O_CREAT"
    r"|\bopen\([^\n]*(\"[rb+t]*[wxa][wxab+t]*\"|, mode)"
)


def test_nothing_writes_past_the_writers_that_are_tried_here() -> None:
    modules = {
        str(path.relative_to(ROOT)): match[0]
        for package in ("dni_deploy", "exporters", "engines")
        for path in sorted((ROOT / package).rglob("*.py"))
        if (match := WRITE_CALL.search(path.read_text(encoding="utf-8")))
    }
    assert {name: call for name, call in modules.items() if name not in OWN_WRITERS} == {}
    assert set(modules) >= {"dni_deploy/alpha/log.py", "dni_deploy/video_io/segments.py"}
