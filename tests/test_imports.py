"""The house keeps its shape: imports point down, the front door is light, every file says what it is."""

from __future__ import annotations

import ast
import graphlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import click
import pytest

from dni_deploy import errors
from dni_deploy.cli.main import COMMANDS, format_help_summary

ROOT = Path(__file__).parent.parent
PACKAGES = ("dni_deploy", "exporters", "engines", "benchmarks")
HEAVY = ("torch", "onnx", "onnxruntime", "tensorrt", "pycuda", "av", "PIL", "matplotlib")

# A module may import from its own level and from below. Longest prefix wins; what is not listed is a noun.
LEVELS = {
    "benchmarks": 5,
    "dni_deploy.cli": 4,
    "dni_deploy.__main__": 4,
    "dni_deploy.api": 3,
    "dni_deploy.latency": 2,
    "dni_deploy.webui": 2,
    "dni_deploy.session.session": 2,
    "dni_deploy.spatial.render": 2,
    "dni_deploy.spatial.spatial": 2,
    "dni_deploy.reports": 2,
    "dni_deploy.control": 2,
    "dni_deploy.video_io": 2,
    "dni_deploy.planes": 2,
    "dni_deploy.vapoursynth": 2,
    "engines": 1,
    "exporters": 1,
    "dni_deploy": 0,
}
# The package itself only holds lazy names; everybody may ask it for the version.
FRONT = "dni_deploy"


@cache
def files() -> dict[str, Path]:
    """Every module of the packages by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(files()[module].read_text(encoding="utf-8"))


def level(module: str) -> int:
    prefix = max((known for known in LEVELS if module == known or module.startswith(known + ".")), key=len)
    return LEVELS[prefix]


def imports(module: str, *, top_only: bool = False) -> Iterator[str]:
    """The modules that a module imports, ours as far as they are files, others by their whole name."""
    package = module if files()[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in _top(tree(module)) if top_only else ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in files() else base


def _top(node: ast.AST) -> Iterator[ast.AST]:
    """The statements that run at import: not those in functions, not those behind TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _top(child)


def test_the_packages_are_there() -> None:
    assert len(files()) > 40  # the test below would pass on an empty list


@pytest.mark.parametrize("module", [name for name in files() if name != FRONT])
def test_imports_point_down(module: str) -> None:
    up = [name for name in imports(module) if name in files() and name != FRONT and level(name) > level(module)]
    assert not up, f"{module} imports upward: {up}"


@pytest.mark.parametrize("module", [name for name in files() if name.split(".")[0] in ("exporters", "engines")])
def test_bays_never_import_each_other(module: str) -> None:
    other = {"exporters": "engines", "engines": "exporters"}[module.split(".")[0]]
    assert not [name for name in imports(module) if name.split(".")[0] == other]


def test_no_cycles() -> None:
    graph = {name: {other for other in imports(name, top_only=True) if other in files() and other != name} for name in files()}
    for others in graph.values():
        others.discard(FRONT)
    # A package's own __init__ may gather its files; its files then import each other, not the package.
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", files())
def test_nobody_takes_a_context_by_import(module: str) -> None:
    assert "pycuda.autoinit" not in files()[module].read_text(encoding="utf-8")


@pytest.mark.parametrize("module", [name for name in files() if name.startswith("engines")])
def test_engines_do_without_torch(module: str) -> None:
    assert "torch" not in {name.split(".")[0] for name in imports(module)}


@pytest.mark.parametrize(
    "path", [*files().values(), *sorted((ROOT / "tests").rglob("*.py"))], ids=lambda path: str(path.relative_to(ROOT))
)
def test_every_file_says_what_it_is(path: Path) -> None:
    parsed = ast.parse(path.read_text(encoding="utf-8"))
    said = ast.get_docstring(parsed)
    if path.name == "__init__.py" and not parsed.body:
        return
    assert said, f"{path} has no docstring"
    assert len(said.splitlines()[0]) > 10
    futures = [node for node in parsed.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    code = [node for node in parsed.body if not isinstance(node, ast.Expr | ast.Assign)]
    assert futures or not code, f"{path} lacks `from __future__ import annotations`"


@pytest.mark.parametrize("package", ["dni_deploy", "exporters", "engines"])
def test_types_are_shipped(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()


@pytest.mark.parametrize("package", ["exporters", "engines"])
def test_bays_are_ours(package: str) -> None:
    assert import_module(package).DISTRIBUTION == "dni-deploy"


def run(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, cwd=ROOT, timeout=120, stdin=subprocess.DEVNULL
    )


LOOK = "import sys, json; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"


@pytest.mark.parametrize(
    "code",
    [
        "import dni_deploy",
        "from dni_deploy.cli.main import main; main(['-h'])",
        "from dni_deploy.cli.main import main; main(['--version'])",
        "from dni_deploy.cli.main import main; main(['nonsense'])",
        "from dni_deploy.cli.main import main; main(['run', '-h'])",
        "from dni_deploy.cli.main import main; main(['doctor', '--json'])",
    ],
)
def test_the_front_door_is_light(code: str) -> None:
    child = run(f"{code}\n{LOOK}")
    assert child.returncode == 0, child.stderr
    loaded = set(json.loads(child.stdout.splitlines()[-1]))
    assert not loaded & set(HEAVY)
    assert "numpy" not in loaded
    if not any(word in code for word in ("nonsense", "'run'", "doctor")):
        assert "click" not in loaded


# Running a bundle must not need torch, and reading one must not need an engine.
WITHOUT = "import sys\nfor name in sys.argv[1].split(','): sys.modules[name] = None\nimport {}"


@pytest.mark.parametrize(
    "module", ["dni_deploy.session.session", "dni_deploy.api.run", "dni_deploy.api.sweep", "dni_deploy.api.build"]
)
def test_running_does_without_torch(module: str) -> None:
    child = run(WITHOUT.format(module), "torch,onnxscript,matplotlib")
    assert child.returncode == 0, child.stderr


@pytest.mark.parametrize(
    "module", ["dni_deploy.bundle.bundle", "dni_deploy.checkpoints.family", "dni_deploy.api.inspect", "dni_deploy.api.refit"]
)
def test_nouns_do_without_torch_and_engines(module: str) -> None:
    child = run(WITHOUT.format(module), "torch,onnxscript,matplotlib,onnxruntime")
    assert child.returncode == 0, child.stderr


def test_help_is_as_fast_as_python() -> None:
    """The issue's figure is 3; both are the best of 15, interleaved, since the machine does other things too."""
    times: dict[str, list[float]] = {"pass": [], "from dni_deploy.cli.main import main; main(['-h'])": []}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(15):
        for code, taken in times.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, env=environment, cwd=ROOT)
            taken.append(time.perf_counter() - start)
    nothing, front = (min(taken) for taken in times.values())
    assert front / nothing <= 3


def commands() -> dict[str, click.Command]:
    return {name: import_module(f"dni_deploy.cli.{name}").command for name in COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_documented(name: str) -> None:
    command = commands()[name]
    context = click.Context(command, info_name=f"dni-deploy {name}", **command.context_settings)
    text = command.get_help(context)
    examples = text.partition("Examples:")[2].strip().splitlines()
    assert examples, f"{name} has no examples"
    assert all(f"dni-deploy {name}" in line for line in examples)
    assert command.help
    assert COMMANDS[name] in format_help_summary()
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts} has no help"


def test_no_module_hides_a_public_name() -> None:
    """Importing dni_deploy.NAME would put the module where `dni_deploy.NAME` should be the function."""
    import dni_deploy

    hidden = [name for name in dni_deploy.__all__ if f"dni_deploy.{name}" in files() and name != "__version__"]
    assert not hidden, f"give these modules another name: {hidden}"


def test_each_command_is_a_library_verb() -> None:
    import dni_deploy

    assert set(COMMANDS) - {"completion"} <= set(dni_deploy.__all__)


def test_the_command_reference_is_up_to_date() -> None:
    child = run("import runpy, sys; sys.argv[1:] = ['--check']; runpy.run_path('docs/generate_cli.py', run_name='__main__')")
    assert child.returncode == 0, child.stdout + child.stderr


def test_the_table_of_exit_codes_is_true() -> None:
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    told = {
        kind: int(code)
        for code, kinds in re.findall(r"^\| (\d+) \| (.+?) \|", text, re.M)
        for kind in re.findall(r"`(\w+)`", kinds)
    }
    real = {
        kind.__name__: kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.DniError) and kind is not errors.DniError
    }
    assert told == real
