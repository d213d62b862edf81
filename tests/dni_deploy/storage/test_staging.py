"""Copies of objects: ahead and in order, removed, whole, and named by their address."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dni_deploy.errors import DniError, ImageFileError, InputError, LimitError
from dni_deploy.storage.staging import fetch_file, stage_ahead
from tests.support.object_stores import CountingStore


def test_items_keep_their_order_and_leave_no_copy(store: CountingStore, tmp_path: Path) -> None:
    (tmp_path / "local.txt").write_bytes(b"local")
    sources = [f"memory://b/{number}.txt" for number in range(30)]
    for number, source in enumerate(sources):
        store.put(source, str(number).encode())
    sources[7:7] = [str(tmp_path / "local.txt"), "memory://b/none.txt"]
    contents, copies = [], []
    with stage_ahead(sources, lambda source: source) as staged_sources:
        for source, staged in staged_sources:
            try:
                with staged.reading() as path:
                    assert (staged.source, path.suffix) == (source, ".txt")
                    contents.append(path.read_text())
                copies.append(path)
            except DniError as error:
                contents.append(str(error))
        assert [path for path in copies if path.exists()] == [tmp_path / "local.txt"]
    assert contents == [*map(str, range(7)), "local", "memory://b/none.txt does not exist.", *map(str, range(7, 30))]
    assert store.calls == {"cat_file": 31, "_strip_protocol": 31}


def test_an_error_names_the_address(store: CountingStore) -> None:
    store.put("memory://b/x.png", b"data")
    with stage_ahead(["memory://b/x.png"], str) as staged_sources:
        ((_, staged),) = staged_sources
        with pytest.raises(ImageFileError, match=r"^memory://b/x.png is broken.$"), staged.reading() as path:
            raise ImageFileError(f"{path} is broken.")


def test_files_that_were_not_read_are_there_until_the_end(store: CountingStore) -> None:
    store.put("memory://b/x.png", b"data")
    with stage_ahead(["memory://b/x.png"], str) as staged_sources:
        ((_, staged),) = staged_sources
        assert staged.path.read_bytes() == b"data"
    assert not staged.path.parent.exists()


def test_a_file_is_fetched_whole(store: CountingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("memory://b/x.mkv", b"data")
    fetch_file("memory://b/x.mkv", tmp_path / "y.mkv")
    assert (tmp_path / "y.mkv").read_bytes() == b"data"
    store.failures["get_file"] = [OSError("reset")] * 9
    with pytest.raises(InputError, match="reset"):
        fetch_file("memory://b/x.mkv", tmp_path / "z.mkv")
    with pytest.raises(InputError, match=r"memory://b is a folder; name a file"):
        fetch_file("memory://b", tmp_path / "z.mkv")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 9, 64 << 20))
    with pytest.raises(
        LimitError, match=r"^memory://b/x.mkv has 0 MB, and .* has 64 MB free; free some space, or set DNI_CACHE"
    ):
        fetch_file("memory://b/x.mkv", tmp_path / "z.mkv")
    assert [path.name for path in tmp_path.iterdir()] == ["y.mkv"]
