"""Addresses and paths are distinguished, and no address loses a slash."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dni_deploy.errors import UsageError
from dni_deploy.utils.address import as_local_path, as_location, is_address, join_location, name_of, split_location


@pytest.mark.parametrize("text", ["s3://b/k", "gs://b", "S3A://b/k", "memory://x", "nosuch://x", "s3://b/a b/ü.png"])
def test_an_address_stays_as_it_was_written(text: str) -> None:
    assert is_address(text)
    assert as_location(text) == text
    assert as_location(text + "/") == text


@pytest.mark.parametrize(
    "text", ["a.png", "/a/b", "a:/b", "C://b", "s3:/b", "-", "a b://c", "1://x", "://x", "", "x::s3://b/k"]
)
def test_a_path_is_no_address(text: str) -> None:
    assert not is_address(text)
    assert as_location(text) == Path(text)


@pytest.mark.skipif(os.name == "nt", reason="paths of POSIX")
@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("file:///a/b.png", "/a/b.png"),
        ("FILE:///a/b.png", "/a/b.png"),
        ("file://localhost/a%20b#1?.png", "/a b#1?.png"),
        ("local:///a/", "/a"),
    ],
)
def test_a_file_address_is_a_path(text: str, path: str) -> None:
    assert as_location(text) == as_local_path(text) == Path(path)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("http://h/a.png", "http://h/a.png is on the web, and nothing is downloaded from there: download it first."),
        ("https://h/a.png", "is on the web"),
        ("file://host/a", "file://host/a names the machine host; a file of this one has three slashes, file:///FOLDER/FILE."),
        ("s3://", "s3:// names no bucket; write s3://BUCKET/NAME."),
        ("s3:///", "names no bucket"),
        (Path("s3://b/k"), "s3:/b/k was an address before it became a Path, which drops a slash; give it as text."),
        (Path("https://b/k"), "give it as text"),
    ],
)
def test_what_is_refused(given: str | Path, sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        as_location(given)
    assert sentence in str(refused.value)


def test_a_folder_that_is_named_like_an_address_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s3:/b").mkdir(parents=True)
    assert as_location(Path("s3:/b")) == Path("s3:/b")


def test_an_address_is_refused_whole_where_a_path_is_wanted() -> None:
    with pytest.raises(UsageError, match=r"^s3://b/k is an address, and --plot has to be a path on this machine.$"):
        as_local_path("s3://b/k", "--plot")


def test_addresses_are_joined_and_split_with_slashes() -> None:
    assert join_location("s3://b", os.path.join("c", "d.png")) == "s3://b/c/d.png"
    assert join_location("s3://b/c", "") == "s3://b/c"
    assert join_location("a", "b") == os.path.join("a", "b")
    assert split_location("s3://b/c/d.png") == ("s3://b/c", "d.png")
    assert split_location(Path("c", "d.png")) == ("c", "d.png")
    assert name_of("s3://b/c/d.tar.png").suffix == name_of(Path("c/d.tar.png")).suffix == ".png"
