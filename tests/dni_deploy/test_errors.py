"""Errors: the tree at the top of the file is true, and names from outside are safe to print."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dni_deploy import errors
from dni_deploy.errors import DniError, shown

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DniError)]


def test_the_tree_is_true() -> None:
    """Each line of the drawing: name, indentation by parent, exit code, and ValueError where it says so."""
    lines = re.findall(r"^    ([│ ]*)(?:[├└]── )?(\w+)( \(ValueError\))?  +(\d|exit)", errors.__doc__ or "", re.M)
    drawn = {name: (len(indent) // 4, code) for indent, name, _, code in lines}
    assert set(drawn) == {kind.__name__ for kind in KINDS}
    for kind in KINDS:
        if kind is not DniError:
            assert drawn[kind.__name__][1] == str(kind.exit_code), kind
    for _, name, value, _ in lines:
        if value:
            assert issubclass(getattr(errors, name), ValueError)


def test_exit_codes() -> None:
    """1 is a bug of ours and 130 Ctrl-C: no error on purpose has them."""
    codes = {kind.exit_code for kind in KINDS if kind is not DniError}
    assert codes == {2, 3, 4, 5, 6, 7, 8, 9}
    for kind in KINDS:
        for parent in kind.__mro__[1:]:
            if parent in KINDS and parent is not DniError:
                assert kind.exit_code == parent.exit_code  # a kind inside a kind keeps its code


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("conv.weight", "conv.weight"),
        ("gr\u00fcn \u7d75 \U0001f600", "gr\u00fcn \u7d75 \U0001f600"),
        ("a\nb\tc\x00\x1b[31m\x7f\x9b", r"a\nb\tc\x00\x1b[31m\x7f\x9b"),
        ("a\u202eb\u2066\u200b\ufeff", r"a\u202eb\u2066\u200b\ufeff"),
        ("line\u2028para\u2029", r"line\u2028para\u2029"),
        ("\ud800", r"\ud800"),
        (3, "3"),
        (None, "None"),
        ("", ""),
    ],
)
def test_shown(name: object, safe: str) -> None:
    assert shown(name) == safe


def test_shown_is_short() -> None:
    assert shown("x" * 200) == "x" * 200
    assert shown("x" * 201) == "x" * 199 + "\u2026"
    assert len(shown("\n" * 10**6)) == 200
    assert shown("abcdef", 3) == "ab\u2026"


@given(st.text(st.characters()), st.integers(1, 300))
def test_shown_is_one_printable_line(name: str, limit: int) -> None:
    text = shown(name, limit)
    assert len(text) <= limit
    assert len(text.splitlines()) <= 1
    assert all(unicodedata.category(character)[0] != "C" for character in text)
    text.encode("utf-8")  # lone surrogates too
