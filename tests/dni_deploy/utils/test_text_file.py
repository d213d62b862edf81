"""Small text files of users: limits, encodings, and unambiguous JSON."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from dni_deploy.errors import CoefficientsError, InputError, LimitError, MismatchError, UsageError
from dni_deploy.utils.text_file import hash_file, load_json, name_file_in_errors, read_json, read_text


def test_a_byte_order_mark_is_removed(tmp_path: Path) -> None:
    for mark in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "x.json").write_bytes(mark + '{"ä": 1}'.encode())
        assert read_text(tmp_path / "x.json", "preset") == '{"ä": 1}'
        assert read_json(tmp_path / "x.json", "preset") == {"ä": 1}


def test_a_file_is_hashed(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x" * ((1 << 20) + 5))
    assert hash_file(tmp_path / "x", "image") == sha256(b"x" * ((1 << 20) + 5)).hexdigest()
    with pytest.raises(InputError, match=r"The image .* does not exist"):
        hash_file(tmp_path / "absent", "image")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "absent", "does not exist"), (tmp_path, "is not a file")):
        with pytest.raises(InputError, match=f"The preset .*{message}"):
            read_text(path, "preset")
    with pytest.raises(InputError, match="The preset nul"):
        read_text("nul\0", "preset")
    (tmp_path / "x").write_bytes(b"ab\xff")
    with pytest.raises(InputError, match="x: byte 2 is not UTF-8 text"):
        read_text(tmp_path / "x", "preset")
    (tmp_path / "x").write_bytes(b"[")
    with pytest.raises(InputError, match="x: it is not JSON"):
        read_json(tmp_path / "x", "preset")


def test_the_limit_counts_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("äb")
    assert read_text(tmp_path / "x", "plane", 3) == "äb"
    with pytest.raises(LimitError, match=r"The plane .*more than 2 bytes"):
        read_text(tmp_path / "x", "plane", 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' twice"),
        ('[{"a\\u001b": 1, "a\\u001b": 2}]', r"the key .a.*x1b. twice"),
    ],
)
def test_invalid_or_ambiguous_json_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_json(text)
    assert str(caught.value).isprintable()


def test_the_file_is_named_in_its_errors() -> None:
    for error, kind in ((UsageError, InputError), (CoefficientsError, InputError), (LimitError, LimitError)):
        with pytest.raises(kind, match=r"^a/b\.json: it is wrong$"), name_file_in_errors("a/b.json"):
            raise error("it is wrong")
    with pytest.raises(MismatchError, match=r"^as it was$"), name_file_in_errors("a/b.json"):
        raise MismatchError("as it was")


@pytest.mark.parametrize(("text", "message"), [("[" * 200_000, "nested too deeply"), ("1" * 5000, "more than 4,300 digits")])
def test_limits_of_the_parser_are_named_without_its_words(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_json(text)
    assert "recursion" not in str(caught.value)
    assert "sys." not in str(caught.value)
