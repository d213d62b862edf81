"""Public names: each can be imported, type checkers see the same ones, and the docs use no others."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import dni_deploy
from dni_deploy import errors

ROOT = Path(__file__).parents[2]
PUBLIC = [name for name in dni_deploy.__all__ if name != "__version__"]


def test_type_checkers_see_the_names_that_exist() -> None:
    """The list exists twice, since a type checker cannot read the table of modules."""
    tree = ast.parse(inspect.getsource(dni_deploy))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert {alias.asname: node.module for node in imported for alias in node.names} == dni_deploy._MODULE_BY_NAME


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_importable_and_documented(name: str) -> None:
    value = getattr(dni_deploy, name)
    assert value is getattr(importlib.import_module(dni_deploy._MODULE_BY_NAME[name]), name)
    assert inspect.getdoc(value)
    assert name in dir(dni_deploy)


def test_every_error_is_public() -> None:
    kinds = {kind.__name__ for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.DniError)}
    assert kinds <= set(PUBLIC)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'dni_deploy' has no attribute 'nonsense'"):
        _ = dni_deploy.nonsense  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md"]), ids=lambda page: page.name)
def test_the_docs_import_no_submodule(page: Path) -> None:
    """`vapoursynth` excepted: a module that users import, since its package may be absent."""
    text = page.read_text(encoding="utf-8")
    lines = re.findall(r"^ *(?:from (dni_deploy\.[\w.]+) import|import (dni_deploy\.[\w.]+))", text, re.M)
    assert {name for pair in lines for name in pair if name} <= {"dni_deploy.vapoursynth"}
