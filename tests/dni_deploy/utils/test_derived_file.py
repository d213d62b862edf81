"""Derived files: only what this account wrote is believed; a pipe, a link or a file of others is passed over at once."""

from __future__ import annotations

import multiprocessing
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from dni_deploy.utils import derived_file
from dni_deploy.utils.derived_file import KEY_FILE_NAME, compute_keyed_digest, read_derived_file, write_derived_file


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DNI_CONFIG", str(tmp_path / "of mine" / "configuration"))
    return tmp_path / "of mine" / "configuration" / KEY_FILE_NAME


@pytest.fixture
def path(tmp_path: Path, key: Path) -> Path:
    path = tmp_path / "x.plan"
    write_derived_file(path, b"content")
    return path


def test_what_was_written_is_read(path: Path, key: Path) -> None:
    assert read_derived_file(path, "a plan") == b"content"
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    derived_file._load_key.cache_clear()  # as another process
    assert read_derived_file(path, "a plan") == b"content"
    write_derived_file(path, b"", force=True)
    assert read_derived_file(path, "a plan") == b""
    assert read_derived_file(path.with_name("absent"), "a plan") is None
    assert read_derived_file(path / "below a file", "a plan") is None


def test_every_changed_byte_is_seen(path: Path) -> None:
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :])
        assert read_derived_file(path, "a plan") is None
        path.write_bytes(whole[:at])
        assert read_derived_file(path, "a plan") is None
    path.write_bytes(whole + b"x")
    assert read_derived_file(path, "a plan") is None


def replace_by_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def use_another_key(path: Path) -> None:
    derived_file._load_key.cache_clear()
    Path(os.environ["DNI_CONFIG"], KEY_FILE_NAME).unlink()


@pytest.mark.parametrize(
    "change", [replace_by_link, replace_by_pipe, replace_by_folder, use_another_key, lambda path: path.chmod(0o622)]
)
def test_what_others_could_have_made_is_passed_over(
    path: Path, change: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    change(path)
    assert read_derived_file(path, "a plan") is None
    assert len(caplog.records) == 1
    assert str(path) in caplog.text


def test_without_a_place_for_the_key_files_are_for_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("DNI_CONFIG", str(tmp_path / "file" / "below"))
    derived_file._load_key.cache_clear()
    path = tmp_path / "x.plan"
    write_derived_file(path, b"content")
    assert read_derived_file(path, "a plan") == b"content"
    derived_file._load_key.cache_clear()  # as another process
    assert read_derived_file(path, "a plan") is None


@pytest.mark.parametrize("make", [lambda key: key.write_bytes(b"short"), os.mkfifo, lambda key: key.mkdir()])
def test_a_key_that_is_none_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object]
) -> None:
    monkeypatch.setenv("DNI_CONFIG", str(tmp_path))
    derived_file._load_key.cache_clear()
    make(tmp_path / KEY_FILE_NAME)
    first = compute_keyed_digest(b"x")
    assert compute_keyed_digest(b"x") == first
    derived_file._load_key.cache_clear()
    assert compute_keyed_digest(b"x") != first


def _digest(_: int) -> bytes:
    derived_file._load_key.cache_clear()
    return compute_keyed_digest(b"x")


def test_processes_that_begin_at_once_make_one_key(key: Path) -> None:
    with multiprocessing.get_context("fork").Pool(8) as pool:
        assert len(set(pool.map(_digest, range(64), chunksize=1))) == 1
    assert [name.name for name in key.parent.iterdir()] == [KEY_FILE_NAME]
