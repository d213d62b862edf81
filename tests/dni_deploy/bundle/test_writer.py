"""Extras: added to a bundle and taken away in one step, whatever happens meanwhile."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dni_deploy.bundle import bundle as bundle_module
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.manifest import MANIFEST_FILE_NAME
from dni_deploy.bundle.stored_file import read_verified
from dni_deploy.bundle.writer import store_recalibration, store_slider
from dni_deploy.errors import BundleError, LimitError, UsageError
from dni_deploy.utils import atomic_write
from tests.support import pico_bundle as pico

DATA, OTHER = b"some statistics" * 100, b"others" * 100
KNOTS = [(0.0, 0.0), (0.3, 0.75), (1.0, 1.0)]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return pico.write(tmp_path / "x.dni")


def listed(bundle: Bundle) -> set[str]:
    return set(os.listdir(bundle.path))


def named(bundle: Bundle) -> set[str]:
    return {MANIFEST_FILE_NAME, *(stored.file for stored in bundle.manifest.files)}


def test_what_is_added_is_there_and_what_is_taken_away_leaves_the_first_bytes(bundle: Bundle) -> None:
    first = {name: (bundle.path / name).read_bytes() for name in listed(bundle)}
    one = store_recalibration(bundle, DATA)
    assert one.manifest.recalibration is not None
    assert read_verified(one.path, one.manifest.recalibration) == DATA
    two = store_slider(one, KNOTS)
    assert two.manifest.slider == tuple(KNOTS)
    assert two.manifest.recalibration == one.manifest.recalibration
    assert len({bundle.digest, one.digest, two.digest}) == 3
    assert listed(two) == named(two) == {*first, one.manifest.recalibration.file}
    about = {"pictures": [{"name": "in.png", "sha256": "0" * 64}], "before": 1.5}
    told = store_slider(two, KNOTS, about)
    assert (told.manifest.slider, told.manifest.slider_about) == (two.manifest.slider, about)
    assert store_slider(told, KNOTS).digest == two.digest
    assert store_slider(told, None).digest == one.digest
    last = store_recalibration(Bundle.open(bundle.path), None)
    assert last.digest == bundle.digest
    assert {name: (bundle.path / name).read_bytes() for name in listed(bundle)} == first


def test_another_recalibration_takes_the_place_of_the_first(bundle: Bundle) -> None:
    store_recalibration(bundle, DATA)
    changed = store_recalibration(bundle, OTHER)  # an extra that came meanwhile does not make the bundle another one
    assert listed(changed) == named(changed)
    assert store_recalibration(changed, OTHER).digest == changed.digest
    assert listed(changed) == named(changed)


def test_a_damaged_or_missing_extra_is_noticed(bundle: Bundle) -> None:
    stored = store_recalibration(bundle, DATA).manifest.recalibration
    assert stored is not None
    path = bundle.path / stored.file
    for damage in (lambda: path.write_bytes(DATA[:-1] + b"!"), lambda: path.write_bytes(DATA[:-1]), path.unlink):
        damage()
        with pytest.raises(BundleError):
            Bundle.open(bundle.path)
    store_recalibration(bundle, DATA)  # heals it: the very bytes are written again
    Bundle.open(bundle.path)


def test_an_export_into_the_folder_drops_the_extras(bundle: Bundle) -> None:
    store_slider(store_recalibration(bundle, DATA), KNOTS)
    again = pico.write(bundle.path, force=True)
    assert again.digest == bundle.digest
    assert listed(again) == named(again)


def test_nothing_is_added_to_a_bundle_that_was_replaced_meanwhile(bundle: Bundle) -> None:
    other = pico.write(bundle.path, force=True, b=pico.tensors(9))
    for store, extra in ((store_recalibration, DATA), (store_slider, KNOTS)):
        with pytest.raises(UsageError, match="was replaced since it was opened"):
            store(bundle, extra)  # type: ignore[operator]
    assert Bundle.open(bundle.path).digest == other.digest
    assert listed(other) == named(other)


def test_knots_that_no_manifest_may_hold_are_not_written(bundle: Bundle) -> None:
    for knots in ([(0.0, 0.0)], [(0.0, 0.0), (1.0, 1.5)], [(0.0, 0.0), (1.0, float("nan"))], [(0.0, 0.0)] * 2000):
        with pytest.raises(BundleError, match="slider"):
            store_slider(bundle, knots)
    assert Bundle.open(bundle.path).digest == bundle.digest


@pytest.mark.skipif(os.name == "nt", reason="no flock there")
def test_a_second_writer_is_kept_out(bundle: Bundle) -> None:
    with bundle_module._lock_folder(bundle.path), pytest.raises(UsageError, match="another process"):
        store_slider(bundle, KNOTS)
    assert Bundle.open(bundle.path).digest == bundle.digest


def test_two_writers_with_old_bundles_in_hand_lose_nothing(bundle: Bundle) -> None:
    # Each opened the bundle before the other wrote: what is on disk counts, not what was read then.
    store_slider(bundle, KNOTS)
    both = store_recalibration(bundle, DATA)
    assert both.manifest.slider == tuple(KNOTS)


class Killed(BaseException):
    """What nothing catches."""


class DyingOs:
    """The module os until its n-th call that touches the disk; from then on nothing is done any more, no clean-up either."""

    CALLS = ("open", "write", "fsync", "replace", "link", "rename", "unlink", "close")

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0

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


def kills(monkeypatch: pytest.MonkeyPatch, job: Callable[[], object], verify: Callable[[], None]) -> int:
    """The job, killed before each of its calls in turn; returns how many there are."""
    for at in range(1, 200):
        dying = DyingOs(at)
        with monkeypatch.context() as patched:
            patched.setattr(atomic_write, "os", dying)
            patched.setattr(bundle_module, "os", dying)
            try:
                job()
            except Killed:
                pass
            else:
                return at - 1
        verify()
    pytest.fail("never succeeded")


@pytest.mark.parametrize("job", ["add", "replace", "remove"])
def test_a_kill_between_any_two_steps_leaves_the_old_or_the_new(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    before = bundle if job == "add" else store_recalibration(bundle, DATA)
    data = {"add": DATA, "replace": OTHER, "remove": None}[job]
    kept = tmp_path / "kept.dni"
    shutil.copytree(before.path, kept)
    seen: list[str] = []

    def verify() -> None:
        found = Bundle.open(before.path)  # whole, or it would not open
        seen.append(found.digest)
        after = store_recalibration(found, data)  # and the next one is not hindered by what the killed one left
        assert listed(after) - named(after) <= {
            name for name in listed(after) if ".part" in name or name.startswith("recalibration")
        }
        shutil.rmtree(before.path)
        shutil.copytree(kept, before.path)

    assert kills(monkeypatch, lambda: store_recalibration(before, data), verify) > 8
    assert seen[0] == before.digest
    assert seen[-1] != before.digest
    changes = sum(one != other for one, other in pairwise(seen))
    assert changes == 1  # from one kill on it is the new one, and it stays so


def test_a_full_disk_leaves_the_bundle_as_it_was(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    real = atomic_write.write_bytes

    def full(path: Path, data: bytes) -> None:
        if MANIFEST_FILE_NAME in path.name:
            raise OSError(28, "No space left on device", os.fspath(path))
        real(path, data)

    monkeypatch.setattr(atomic_write, "write_bytes", full)
    with pytest.raises(LimitError, match="is as it was"):
        store_recalibration(bundle, DATA)
    assert Bundle.open(bundle.path).digest == bundle.digest
    assert listed(bundle) == named(bundle)


def test_the_manifest_in_hand_is_not_the_one_on_disk(bundle: Bundle) -> None:
    # A bundle that somebody changed in memory is another bundle, and nothing is added by it.
    with pytest.raises(UsageError, match="replaced"):
        store_slider(replace(bundle, manifest=replace(bundle.manifest, opset=18)), KNOTS)
