"""Objects: whole or not at all, again after what may pass, and errors in one sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dni_deploy.errors import InputError, UnavailableError, UsageError
from dni_deploy.storage import object_store
from dni_deploy.storage.object_store import download_object, list_folder, read_info, read_object, write_object
from tests.support.object_stores import CountingStore


class NoCredentialsError(Exception):
    """As botocore names it."""


def test_objects_are_written_read_and_listed(store: CountingStore) -> None:
    write_object("memory://b/a/x.png", b"one")
    write_object("memory://b/y.png", b"two!")
    assert read_object("memory://b/a/x.png") == b"one"
    infos = {info.name: info for info in list_folder("memory://b")}
    assert {name: (info.is_folder, info.size) for name, info in infos.items()} == {"a": (True, 0), "y.png": (False, 4)}
    assert read_info("memory://b/none") is None
    assert list_folder("memory://none") == []


def test_an_object_that_exists_is_replaced_by_force_alone(store: CountingStore, tmp_path: Path) -> None:
    store.put("memory://b/x", b"old")
    (tmp_path / "new").write_bytes(b"newer")
    for data in (b"new", tmp_path / "new"):
        with pytest.raises(UsageError, match=r"^memory://b/x exists; give --force to replace it.$"):
            write_object("memory://b/x", data)
        assert store.get("memory://b/x") == b"old"
    write_object("memory://b/x", tmp_path / "new", force=True)
    assert store.get("memory://b/x") == b"newer"


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_what_may_pass_is_tried_three_times_more(store: CountingStore, failures: int) -> None:
    store.failures["pipe_file"] = [OSError("503 slow down")] * failures
    write_object("memory://b/x", b"data")
    assert (store.get("memory://b/x"), store.calls["pipe_file"]) == (b"data", failures + 1)


def test_what_does_not_pass_is_an_error_with_the_librarys_words(store: CountingStore) -> None:
    store.failures["pipe_file"] = [OSError("503 slow down.")] * 9
    with pytest.raises(InputError, match=r"^memory://b/x cannot be read or written \(OSError: 503 slow down\).$"):
        write_object("memory://b/x", b"data")
    assert (store.calls["pipe_file"], store.list_all()) == (4, [])


@pytest.mark.parametrize("same", [True, False])
def test_an_answer_that_was_lost_is_no_other_writer(store: CountingStore, same: bool) -> None:
    put = store.files.pipe_file

    def put_and_lose(path: str, data: bytes, mode: str) -> None:
        put(path, data if same else b"another's", mode=mode)
        store.failures["pipe_file"] = [FileExistsError()]
        raise TimeoutError

    store.files.pipe_file = put_and_lose
    try:
        if same:
            write_object("memory://b/x", b"data")
        else:
            with pytest.raises(UsageError, match="exists"):
                write_object("memory://b/x", b"data")
    finally:
        del store.files.pipe_file


@pytest.mark.parametrize(
    "error",
    [
        NoCredentialsError("Unable to locate credentials"),
        PermissionError("Access Denied"),
        ImportError("no driver"),
        OSError("Forbidden: b/x"),
    ],
)
def test_what_every_object_would_meet_is_not_tried_again(store: CountingStore, error: Exception) -> None:
    store.failures["cat_file"] = [error] * 9
    with pytest.raises(UnavailableError, match=rf"memory://b/x cannot be reached \({type(error).__name__}: {error}\)"):
        read_object("memory://b/x")
    assert store.calls["cat_file"] == 1


def test_a_missing_object_is_no_missing_bucket(store: CountingStore) -> None:
    with pytest.raises(InputError, match=r"^memory://b/x does not exist.$"):
        read_object("memory://b/x")
    store.failures["cat_file"] = [FileNotFoundError("The specified bucket does not exist")]
    with pytest.raises(UnavailableError, match=r"^memory://b/x: there is no such bucket \(FileNotFoundError: The specified"):
        read_object("memory://b/x")


def test_a_copy_that_was_cut_is_fetched_again(store: CountingStore, tmp_path: Path) -> None:
    store.put("memory://b/x", b"data")
    with pytest.raises(InputError, match="4 of 5 bytes came"):
        download_object("memory://b/x", tmp_path / "x", 5)
    assert store.calls["get_file"] == 4


def test_a_store_that_may_show_parts_gets_no_output() -> None:
    with pytest.raises(
        UsageError, match=r"^sftp://h/x.png: outputs go to a path, s3:// or gs://, where an object appears whole"
    ):
        write_object("sftp://h/x.png", b"data")


@pytest.mark.parametrize(("address", "package"), [("s3://b/x", "s3fs"), ("gs://b/x", "gcsfs"), ("az://b/x", "fsspec")])
def test_a_package_that_is_missing_is_named_with_its_extra(address: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnavailableError, match=rf"^This needs the package '{package}', .*\[cloud\]"):
        read_object(address)


@pytest.mark.parametrize("scheme", ["nosuch", "zip"])
def test_what_has_no_driver_is_unavailable(scheme: str) -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(UnavailableError, match=f"^{scheme}:// cannot be opened here"):
        read_object(f"{scheme}://x/y")


def test_there_are_three_waits_as_the_docs_say() -> None:
    page = (Path(__file__).parents[3] / "docs" / "cloud.md").read_text("utf-8")
    assert "tried three times more, 0.5, 1 and 2 s later" in page
    assert object_store.RETRY_WAITS_S == (0.5, 1.0, 2.0)
