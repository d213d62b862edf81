"""Source files: each says what it is, types are shipped, and the two packages of common names are ours."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("dni_deploy", "exporters", "engines", "benchmarks", "tests")


def find_faults(path: Path) -> list[str]:
    parsed = ast.parse(path.read_text(encoding="utf-8"))
    if path.name == "__init__.py" and not parsed.body:
        return []
    name, docstring = path.relative_to(ROOT), ast.get_docstring(parsed)
    futures = [node for node in parsed.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    code = [node for node in parsed.body if not isinstance(node, ast.Expr | ast.Assign)]
    faults = []
    if not docstring or len(docstring.splitlines()[0]) <= 10:
        faults.append(f"{name} has no docstring that says what it is")
    if code and not futures:
        faults.append(f"{name} lacks `from __future__ import annotations`")
    return faults


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_says_what_it_is(folder: str) -> None:
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    assert not [fault for path in paths for fault in find_faults(path)]


@pytest.mark.parametrize("package", ["dni_deploy", "exporters", "engines"])
def test_types_are_shipped(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()


@pytest.mark.parametrize("package", ["exporters", "engines"])
def test_packages_of_common_names_carry_our_name(package: str) -> None:
    assert import_module(package).DISTRIBUTION == "dni-deploy"


MAX_PARAMETERS = 14
"""More than that belongs into an object of options, as SessionOptions is one."""


@pytest.mark.parametrize("package", ["dni_deploy", "exporters", "engines"])
def test_no_function_takes_more_parameters_than_one_can_survey(package: str) -> None:
    crowded = []
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                if len(parameters) > MAX_PARAMETERS:
                    crowded.append(f"{path.relative_to(ROOT)}: {node.name} has {len(parameters)}")
    assert not crowded
