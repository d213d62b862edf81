"""Bundles at addresses: copied once, by digest, checked, and never changed."""

from __future__ import annotations

import multiprocessing
import shutil
import time
from pathlib import Path

import pytest

from dni_deploy.bundle import remote
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.folder import MANIFEST_FILE_NAME
from dni_deploy.bundle.writer import store_slider
from dni_deploy.errors import BundleError, LimitError, UnavailableError, UsageError
from dni_deploy.storage import cache
from tests.support import pico_bundle as pico
from tests.support.object_stores import CountingStore, store

__all__ = ["store"]

ADDRESS = "memory://b/x.dni"


@pytest.fixture
def original(store: CountingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """Returns a bundle that is at ADDRESS, too; the cache is empty."""
    monkeypatch.setenv("DNI_CACHE", str(tmp_path / "cache"))
    bundle = pico.write(tmp_path / "x.dni")
    store.put_folder(ADDRESS, bundle.path)
    return bundle


def test_a_bundle_is_copied_once_by_its_digest(original: Bundle, store: CountingStore, tmp_path: Path) -> None:
    for _ in range(2):
        bundle = Bundle.ensure_open(f"{ADDRESS}/")
        assert (bundle.digest, bundle.members, bundle.address) == (original.digest, original.members, ADDRESS)
        assert bundle.path == tmp_path / "cache" / "bundles" / original.digest
        assert ADDRESS in repr(bundle)
    assert store.calls["cat_file"] == len(original.manifest.files) + 2  # the manifest twice


def test_a_copy_that_is_damaged_is_made_anew(original: Bundle) -> None:
    name = original.manifest.graph.file
    copy = Bundle.open(ADDRESS).path / name
    copy.write_bytes(b"x" + copy.read_bytes()[1:])
    assert Bundle.open(ADDRESS).read_graph() == original.read_graph()
    copy.unlink()
    assert Bundle.open(ADDRESS).read_graph() == original.read_graph()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda data: data[:-1], "the manifest says {size}: it was cut or changed; copy it again."),
        (lambda data: b"x" + data[1:], "has another SHA-256 than the manifest says"),
        (None, "the bundle is incomplete"),
    ],
)
def test_an_object_that_is_not_the_manifests_is_refused(
    original: Bundle, store: CountingStore, tmp_path: Path, change: object, sentence: str
) -> None:
    stored = original.manifest.members[1].stored
    if callable(change):
        store.put(f"{ADDRESS}/{stored.file}", change(store.get(f"{ADDRESS}/{stored.file}")))
    else:
        store.files.rm(f"{ADDRESS}/{stored.file}")
    with pytest.raises(BundleError) as refused:
        Bundle.open(ADDRESS)
    assert sentence.format(size=stored.size) in str(refused.value)
    assert ADDRESS in str(refused.value)
    assert [path.suffix for path in (tmp_path / "cache" / "bundles").iterdir()] == [".lock"]


def test_what_is_no_bundle(original: Bundle, store: CountingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleError, match=r"^memory://b has no manifest.json: it is not a bundle.$"):
        Bundle.open("memory://b")
    with pytest.raises(BundleError, match=r"^https://h/x.dni is an address, and nothing is downloaded"):
        Bundle.open("https://h/x.dni")
    store.put(f"{ADDRESS}/{MANIFEST_FILE_NAME}", b"{}")
    with pytest.raises(BundleError, match=r"^memory://b/x.dni/manifest.json: The manifest is not that of a bundle"):
        Bundle.open(ADDRESS)
    monkeypatch.setattr(remote, "MAX_MANIFEST_BYTES", 1)
    with pytest.raises(LimitError):
        Bundle.open(ADDRESS)


def test_without_a_cache_folder(original: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "cache_folder", lambda: None)
    with pytest.raises(UnavailableError, match="set DNI_CACHE"):
        Bundle.open(ADDRESS)


def test_a_copy_is_not_changed(original: Bundle) -> None:
    with pytest.raises(UsageError, match=r"memory://b/x.dni is read from there and not changed"):
        store_slider(Bundle.open(ADDRESS), [(0, 0), (1, 1)])


def _open_and_count(folder: str, barrier: object, queue: object) -> None:
    reads = []

    def read(address: str) -> bytes:
        reads.append(address)
        time.sleep(0.005)
        return Path(folder, address.rpartition("/")[2]).read_bytes()

    class Info:
        def __init__(self, address: str) -> None:
            self.size = Path(folder, address.rpartition("/")[2]).stat().st_size

    remote.read_object, remote.read_info = read, Info  # type: ignore[assignment]
    barrier.wait()  # type: ignore[attr-defined]
    bundle = Bundle.open("memory://b/x.dni")
    queue.put((bundle.digest, [address for address in reads if not address.endswith(MANIFEST_FILE_NAME)]))  # type: ignore[attr-defined]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="forks")
def test_eight_processes_read_a_bundle_once(original: Bundle, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(8), context.Queue()
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    processes = [context.Process(target=_open_and_count, args=(str(original.path), barrier, queue)) for _ in range(8)]
    for process in processes:
        process.start()
    answers = [queue.get(timeout=30) for _ in processes]
    for process in processes:
        process.join(30)
    assert {digest for digest, _ in answers} == {original.digest}
    assert sorted(len(reads) for _, reads in answers) == [0] * 7 + [len(original.manifest.files)]


def test_another_machine_makes_a_copy_of_its_own(
    original: Bundle, store: CountingStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = Bundle.open(ADDRESS)
    assert bundle.localize() is bundle
    assert original.localize() is original
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setenv("DNI_CACHE", str(tmp_path / "other"))
    local = Bundle.ensure_open(bundle)
    assert local.path.is_relative_to(tmp_path / "other")
    assert local == Bundle.open(ADDRESS)
    shutil.rmtree(tmp_path / "other")
    store.put_folder(ADDRESS, pico.write(tmp_path / "y.dni", count=3).path)
    with pytest.raises(BundleError, match=r"^memory://b/x.dni was replaced since the job began"):
        Bundle.ensure_open(bundle)
