"""Errors: the class tree in the module docstring is correct, and foreign names are safe to print."""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dni_deploy import errors
from dni_deploy.cli.main import main
from dni_deploy.errors import DniError, EngineError, UnavailableError, escape_name

KINDS = list(dict.fromkeys(kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DniError)))


def test_the_documented_tree_matches_the_error_classes() -> None:
    """Compares each line of the drawing: name, indentation by parent, exit code, and ValueError where noted."""
    lines = re.findall(r"^    ([│ ]*)(?:[├└]── )?(\w+)( \(ValueError\))?  +(\d+|exit)", errors.__doc__ or "", re.M)
    drawn_tree = {name: (len(indent) // 4, code) for indent, name, _, code in lines}
    assert set(drawn_tree) == {kind.__name__ for kind in KINDS}
    for kind in KINDS:
        if kind is not DniError:
            assert drawn_tree[kind.__name__][1] == str(kind.exit_code), kind
    for _, name, value, _ in lines:
        if value:
            assert issubclass(getattr(errors, name), ValueError)


def test_exit_codes_are_inherited_and_not_reserved_ones() -> None:
    """1 is a bug, 10 a verdict and 130 Ctrl-C: no deliberate error has these."""
    codes = {kind.exit_code for kind in KINDS if kind is not DniError}
    assert codes == {2, 3, 4, 5, 6, 7, 8, 9, 11}
    for kind in KINDS:
        for parent in kind.__mro__[1:]:
            if parent in KINDS and parent is not DniError:
                assert kind.exit_code == parent.exit_code  # a subclass keeps the exit code of its parent


def test_a_wrong_result_is_not_an_unavailable_error() -> None:
    """The order of two `except` must not decide whether `--engine auto` goes on with another engine."""
    assert not issubclass(EngineError, UnavailableError)
    assert not issubclass(UnavailableError, EngineError)


def test_the_old_name_is_importable_for_one_release() -> None:
    assert errors.EnvironmentProblem is UnavailableError


ROOT = Path(__file__).parents[2]

FIXED = {
    "BundleError": 3,
    "BusyError": 9,
    "CheckpointError": 3,
    "CoefficientsError": 2,
    "DiskFullError": 6,
    "DniError": 1,
    "EngineError": 11,
    "ImageFileError": 3,
    "InPlaceUnsupportedError": 11,
    "IndexMismatchError": 3,
    "InputError": 3,
    "JobFolderError": 3,
    "JoinError": 3,
    "LimitError": 6,
    "MismatchError": 4,
    "MissingObjectError": 3,
    "PartialResultError": 8,
    "RefusedError": 5,
    "SizeChangeError": 3,
    "UnavailableError": 7,
    "UsageError": 2,
}
"""The kind of every error, as scripts read it in JSON, and its exit code. Kinds are fixed, whatever the classes are called."""

KINDS_OF_ONE_MODULE = (
    "DiskFullError",
    "InPlaceUnsupportedError",
    "IndexMismatchError",
    "JobFolderError",
    "JoinError",
    "MissingObjectError",
    "SizeChangeError",
)
"""Those that are not in errors.py."""


def _error_classes() -> dict[str, ast.ClassDef]:
    """Returns every class in the packages that derives from DniError, by name; it parses the sources and imports nothing."""
    files = [file for package in ("dni_deploy", "engines", "exporters") for file in (ROOT / package).rglob("*.py")]
    classes = [
        node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.ClassDef)
    ]
    error_classes: dict[str, ast.ClassDef] = {}
    while True:
        bases = {DniError.__name__, *error_classes}
        derived = {
            node.name: node
            for node in classes
            if node.name == DniError.__name__ or any(ast.unparse(base).rpartition(".")[2] in bases for base in node.bases)
        }
        if derived.keys() == error_classes.keys():
            return error_classes
        error_classes = derived


def test_every_error_has_a_unique_and_fixed_kind() -> None:
    """An error that only inherited its kind would be reported as its parent."""
    kinds = []
    for name, node in _error_classes().items():
        values = [
            statement.value.value
            for statement in node.body
            if isinstance(statement, ast.Assign)
            and ast.unparse(statement.targets[0]) == "kind"
            and isinstance(statement.value, ast.Constant)
        ]
        assert len(values) == 1, f"{name} has no fixed string as its kind"
        kinds += values
    assert sorted(kinds) == sorted(FIXED)
    assert {kind.kind: kind.exit_code for kind in KINDS} == {
        name: code for name, code in FIXED.items() if name not in KINDS_OF_ONE_MODULE
    }


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_renamed_class_changes_no_json(kind: type[DniError], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def fail() -> None:
        raise kind("It went wrong.")

    name = kind.kind
    monkeypatch.setattr("dni_deploy.api.doctor.doctor", fail)
    kind = type("RenamedError", (kind,), {})
    assert main(["doctor", "--json"]) == FIXED[name]
    assert json.loads(capsys.readouterr().err) == {
        "schema": 2,
        "error": {"kind": name, "message": "It went wrong.", "exit_code": FIXED[name]},
    }


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
def test_escape_name(name: object, safe: str) -> None:
    assert escape_name(name) == safe


def test_escape_name_cuts_long_names() -> None:
    assert escape_name("x" * 200) == "x" * 200
    assert escape_name("x" * 201) == "x" * 199 + "\u2026"
    assert len(escape_name("\n" * 10**6)) == 200
    assert escape_name("abcdef", 3) == "ab\u2026"


@given(st.text(st.characters()), st.integers(1, 300))
def test_escape_name_gives_one_printable_line(name: str, limit: int) -> None:
    text = escape_name(name, limit)
    assert len(text) <= limit
    assert len(text.splitlines()) <= 1
    assert all(unicodedata.category(character)[0] != "C" for character in text)
    text.encode("utf-8")  # lone surrogates too
