"""Import paths (package.module:function): the function is imported, and each kind of mistake has its own message."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dni_deploy.errors import UsageError
from dni_deploy.utils.import_path import import_function

MODULE = "def build(): return 3\nclass Group:\n    @staticmethod\n    def build(): return 4\nNUMBER = 5\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Changes to a temporary folder, which is not on sys.path, as for an installed command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    return tmp_path


def write_module(folder: Path, name: str, text: str = MODULE) -> str:
    (folder / f"{name}.py").write_text(text)
    return name


def test_a_module_of_the_current_folder_is_found(folder: Path) -> None:
    name = write_module(folder, "import_path_module_1")
    before = list(sys.path)
    assert import_function(f"{name}:build", "a number")() == 3
    assert import_function(f"{name}:Group.build", "a number")() == 4
    assert sys.path == before


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        ("", r"does not have the form package\.module:factory"),
        (":", r"does not have the form package\.module:factory"),
        (":absent", "has no 'absent'"),
        (":Group.absent", "has no 'Group.absent'"),
        (":NUMBER", "is a int, not a function that returns a network"),
    ],
)
def test_other_names_are_refused(folder: Path, suffix: str, message: str) -> None:
    name = write_module(folder, "import_path_module_2")
    with pytest.raises(UsageError, match=message):
        import_function(name + suffix, "a network", "factory")


@pytest.mark.parametrize(
    ("text", "message"), [("1 / 0", "ZeroDivisionError"), ("import absent_package", "absent_package"), ("(", "SyntaxError")]
)
def test_a_module_that_fails_is_explained(folder: Path, text: str, message: str) -> None:
    name = write_module(folder, f"import_path_module_{abs(hash(text))}", text)
    before = list(sys.path)
    with pytest.raises(UsageError, match=f"cannot be imported: .*{message}"):
        import_function(f"{name}:build", "a network")
    assert sys.path == before
