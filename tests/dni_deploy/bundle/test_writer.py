"""Writing bundles: new ones, replacements and attachments are atomic, whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from dni_deploy.bundle import writer
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.folder import MANIFEST_FILE_NAME
from dni_deploy.bundle.stored_file import read_verified
from dni_deploy.bundle.writer import store_calibration, store_slider, write_bundle
from dni_deploy.errors import BundleError, InputError, LimitError, MismatchError, UsageError
from dni_deploy.utils import atomic_write
from tests.support import pico_bundle as pico

DATA, OTHER = b"some statistics" * 100, b"others" * 100
POINTS = [(0.0, 0.0), (0.3, 0.75), (1.0, 1.0)]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return pico.write(tmp_path / "x.dni")


def list_folder(bundle: Bundle) -> set[str]:
    return set(os.listdir(bundle.path))


def list_manifest_files(bundle: Bundle) -> set[str]:
    return {MANIFEST_FILE_NAME, *(stored.file for stored in bundle.manifest.files)}


def test_removing_an_attachment_restores_the_first_bytes(bundle: Bundle) -> None:
    first = {name: (bundle.path / name).read_bytes() for name in list_folder(bundle)}
    with_calibration = store_calibration(bundle, DATA)
    assert with_calibration.manifest.calibration is not None
    assert read_verified(with_calibration.path, with_calibration.manifest.calibration) == DATA
    with_slider = store_slider(with_calibration, POINTS)
    assert with_slider.manifest.slider == tuple(POINTS)
    assert with_slider.manifest.calibration == with_calibration.manifest.calibration
    assert len({bundle.digest, with_calibration.digest, with_slider.digest}) == 3
    assert list_folder(with_slider) == list_manifest_files(with_slider) == {*first, with_calibration.manifest.calibration.file}
    provenance = {"pictures": [{"name": "in.png", "sha256": "0" * 64}], "before": 1.5}
    described = store_slider(with_slider, POINTS, provenance)
    assert (described.manifest.slider, described.manifest.slider_about) == (with_slider.manifest.slider, provenance)
    assert store_slider(described, POINTS).digest == with_slider.digest
    assert store_slider(described, None).digest == with_calibration.digest
    last = store_calibration(Bundle.open(bundle.path), None)
    assert last.digest == bundle.digest
    assert {name: (bundle.path / name).read_bytes() for name in list_folder(bundle)} == first


def test_another_calibration_replaces_the_first(bundle: Bundle) -> None:
    store_calibration(bundle, DATA)
    changed = store_calibration(bundle, OTHER)  # an attachment added meanwhile does not make it another bundle
    assert list_folder(changed) == list_manifest_files(changed)
    assert store_calibration(changed, OTHER).digest == changed.digest
    assert list_folder(changed) == list_manifest_files(changed)


def test_a_damaged_or_missing_attachment_is_detected(bundle: Bundle) -> None:
    stored = store_calibration(bundle, DATA).manifest.calibration
    assert stored is not None
    path = bundle.path / stored.file
    for damage in (lambda: path.write_bytes(DATA[:-1] + b"!"), lambda: path.write_bytes(DATA[:-1]), path.unlink):
        damage()
        with pytest.raises(BundleError):
            Bundle.open(bundle.path)
    store_calibration(bundle, DATA)  # repairs it: the same bytes are written again
    Bundle.open(bundle.path)


def test_a_new_export_drops_the_attachments(bundle: Bundle) -> None:
    store_slider(store_calibration(bundle, DATA), POINTS)
    rewritten = pico.write(bundle.path, force=True)
    assert rewritten.digest == bundle.digest
    assert list_folder(rewritten) == list_manifest_files(rewritten)


def test_no_attachment_is_added_to_a_replaced_bundle(bundle: Bundle) -> None:
    other = pico.write(bundle.path, force=True, b=pico.tensors(9))
    for store, extra in ((store_calibration, DATA), (store_slider, POINTS)):
        with pytest.raises(UsageError, match="was replaced since it was opened"):
            store(bundle, extra)  # type: ignore[operator]
    assert Bundle.open(bundle.path).digest == other.digest
    assert list_folder(other) == list_manifest_files(other)


def test_invalid_slider_points_are_not_written(bundle: Bundle) -> None:
    for points in ([(0.0, 0.0)], [(0.0, 0.0), (1.0, 1.5)], [(0.0, 0.0), (1.0, float("nan"))], [(0.0, 0.0)] * 2000):
        with pytest.raises(BundleError, match="slider"):
            store_slider(bundle, points)
    assert Bundle.open(bundle.path).digest == bundle.digest


@pytest.mark.skipif(os.name == "nt", reason="no flock there")
def test_concurrent_attachments_are_locked_out(bundle: Bundle) -> None:
    with writer._lock_folder(bundle.path), pytest.raises(UsageError, match="another process"):
        store_slider(bundle, POINTS)
    assert Bundle.open(bundle.path).digest == bundle.digest


def test_two_writers_with_stale_bundles_lose_nothing(bundle: Bundle) -> None:
    # Each opened the bundle before the other wrote: the state on disk counts, not the one that was read.
    store_slider(bundle, POINTS)
    both = store_calibration(bundle, DATA)
    assert both.manifest.slider == tuple(POINTS)


class Killed(BaseException):
    """An exception that no handler catches."""


class DyingOs:
    """The module os up to its n-th call that touches the disk; from then on every call fails, including cleanup."""

    CALLS = ("open", "write", "fsync", "replace", "link", "rename", "unlink", "close")

    def __init__(self, failing_call: int) -> None:
        self.at, self.count = failing_call, 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self.CALLS:
            return real

        def call(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count >= self.at:
                if name == "close":
                    real(*arguments)  # the system closes what a killed process had open
                raise Killed
            return real(*arguments, **options)

        return call


def kill_at_each_call(monkeypatch: pytest.MonkeyPatch, job: Callable[[], object], verify: Callable[[], None]) -> int:
    """Runs the job repeatedly, killed before each of its calls in turn; returns the number of calls."""
    for failing_call in range(1, 200):
        killed_os = DyingOs(failing_call)
        with monkeypatch.context() as patches:
            patches.setattr(atomic_write, "os", killed_os)
            patches.setattr(writer, "os", killed_os)
            try:
                job()
            except Killed:
                pass
            else:
                return failing_call - 1
        verify()
    pytest.fail("never succeeded")


@pytest.mark.parametrize("job", ["add", "replace", "remove"])
def test_a_kill_at_any_step_leaves_the_old_or_the_new_bundle(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    before = bundle if job == "add" else store_calibration(bundle, DATA)
    data = {"add": DATA, "replace": OTHER, "remove": None}[job]
    original_copy = tmp_path / "kept.dni"
    shutil.copytree(before.path, original_copy)
    digests: list[str] = []

    def verify() -> None:
        reopened = Bundle.open(before.path)  # complete, or it would not open
        digests.append(reopened.digest)
        after = store_calibration(reopened, data)  # leftovers of the killed job do not block the next one
        assert list_folder(after) - list_manifest_files(after) <= {
            name for name in list_folder(after) if ".part" in name or name.startswith("calibration")
        }
        shutil.rmtree(before.path)
        shutil.copytree(original_copy, before.path)

    assert kill_at_each_call(monkeypatch, lambda: store_calibration(before, data), verify) > 8
    assert digests[0] == before.digest
    assert digests[-1] != before.digest
    changes = sum(with_calibration != other for with_calibration, other in pairwise(digests))
    assert changes == 1  # from some call on it is the new bundle, and it stays so


def test_a_full_disk_leaves_the_bundle_as_it_was(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    real = atomic_write.write_bytes

    def full(path: Path, data: bytes) -> None:
        if MANIFEST_FILE_NAME in path.name:
            raise OSError(28, "No space left on device", os.fspath(path))
        real(path, data)

    monkeypatch.setattr(atomic_write, "write_bytes", full)
    with pytest.raises(LimitError, match="is as it was"):
        store_calibration(bundle, DATA)
    assert Bundle.open(bundle.path).digest == bundle.digest
    assert list_folder(bundle) == list_manifest_files(bundle)


def test_a_bundle_changed_in_memory_takes_no_attachment(bundle: Bundle) -> None:
    # A bundle that was changed in memory is another bundle; nothing is attached through it.
    with pytest.raises(UsageError, match="replaced"):
        store_slider(replace(bundle, manifest=replace(bundle.manifest, opset=18)), POINTS)


def test_the_graph_that_was_passed_in_is_not_changed(tmp_path: Path) -> None:
    graph = pico.graph()
    write_bundle(tmp_path / "x.dni", graph, pico.family(), pico.SIGNATURE, architecture="pico", graph_facts={})
    assert graph == pico.graph()


def test_a_graph_of_another_network_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    def attempt(graph: onnx.ModelProto, **changed: dict[str, np.ndarray]) -> None:
        family = pico.family(**changed)
        write_bundle(tmp_path / "x.dni", graph, family, pico.SIGNATURE, architecture="pico", graph_facts={})

    graph = pico.graph()
    graph.graph.initializer[0].dims[0] = 3
    with pytest.raises(MismatchError, match=r"'conv.weight' as \(3, 1, 3, 3\)"):
        attempt(graph)
    graph = pico.graph()
    graph.graph.initializer[0].data_type = TensorProto.FLOAT16
    with pytest.raises(MismatchError, match="FLOAT16"):
        attempt(graph)
    graph = pico.graph()
    del graph.graph.initializer[:]
    with pytest.raises(MismatchError, match="nothing could be blended"):
        attempt(graph)
    large = {"conv.bias": np.full(2, 1e300)}
    with pytest.raises(InputError, match="float32's range"):
        attempt(pico.graph(), a=large, b=large)
    assert os.listdir(tmp_path) == []


def test_an_existing_output_is_kept_without_force(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="name another"):
        pico.write(bundle.path)
    assert Bundle.open(bundle.path).digest == bundle.digest


def test_force_replaces_the_bundle_and_keeps_foreign_files(bundle: Bundle) -> None:
    foreign_file = bundle.path / "notes-0123456789abcdef.bin"  # a name of our pattern that is in no manifest
    foreign_file.write_text("mine")
    (bundle.path / "plans").mkdir()
    (bundle.path / "plans" / "plan").touch()
    replaced = pico.write(bundle.path, force=True, b=pico.tensors(9))
    assert replaced.digest != bundle.digest
    names = set(os.listdir(bundle.path))
    assert names == {MANIFEST_FILE_NAME, "plans", foreign_file.name, *(stored.file for stored in replaced.manifest.files)}
    assert bundle.manifest.members[0].stored.file in names  # member a did not change
    assert bundle.manifest.members[1].stored.file not in names
    with pytest.raises(BundleError):
        bundle.read_weights("b")  # opened before: its file is missing, and the error says so


def test_force_never_replaces_what_is_not_a_bundle(tmp_path: Path) -> None:
    folder = tmp_path / "x.dni"
    folder.mkdir()
    pico.write(folder, force=True)  # an empty folder may be used
    (folder / MANIFEST_FILE_NAME).write_text("{}")
    with pytest.raises(UsageError, match="Nothing was written"):
        pico.write(folder, force=True)
    assert (folder / MANIFEST_FILE_NAME).read_text() == "{}"
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "one.png").touch()
    with pytest.raises(UsageError):
        pico.write(photos, force=True)
    (tmp_path / "file").write_text("text")
    with pytest.raises(UsageError):
        pico.write(tmp_path / "file", force=True)
    assert os.listdir(photos) == ["one.png"]
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.skipif(os.name == "nt", reason="no flock there")
def test_concurrent_exports_are_locked_out(bundle: Bundle) -> None:
    import fcntl

    descriptor = os.open(bundle.path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(UsageError, match="another process"):
        pico.write(bundle.path, force=True, count=3)
    os.close(descriptor)
    assert Bundle.open(bundle.path).digest == bundle.digest


def test_old_files_that_cannot_be_removed_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old = pico.write(tmp_path / "x.dni").manifest
    unlink = os.unlink

    def fail(path: Any, *arguments: Any, **keywords: Any) -> None:
        if os.path.basename(path) == old.members[0].stored.file:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        unlink(path, *arguments, **keywords)

    monkeypatch.setattr(os, "unlink", fail)
    pico.write(tmp_path / "x.dni", force=True, a={"conv.bias": np.zeros(2, np.float32)})
    assert f"{old.members[0].stored.file} of the bundle before could not be removed" in caplog.text


@pytest.mark.skipif(os.name == "nt", reason="modes mean something else there")
def test_a_replaced_bundle_keeps_its_mode(tmp_path: Path) -> None:
    pico.write(tmp_path / "x.dni")
    for path in (tmp_path / "x.dni").iterdir():
        path.chmod(0o600)
    pico.write(tmp_path / "x.dni", force=True, a={"conv.bias": np.zeros(2, np.float32)})
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "x.dni").iterdir()} == {0o600}
