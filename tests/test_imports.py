"""Imports point down: which package may import which, and no circular import, not even a late one."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("dni_deploy", "exporters", "engines", "benchmarks")
FOUNDATION = {"errors", "_version", "network_controls", "signature", "utils"}
"""Everybody may import these."""
LIBRARY = {
    "checkpoints", "alpha", "exporters", "bundle", "imaging", "control", "blending", "engines", "video_io", "reports", "tuning",
    "session", "calibration", "spatial", "compatibility", "latency", "webui", "website", "jobs", "api",
}  # fmt: skip
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "_version": set(),
    "network_controls": set(),
    "signature": set(),
    "utils": set(),
    "checkpoints": set(),
    "alpha": set(),
    "exporters": set(),
    "bundle": {"checkpoints"},
    "imaging": {"alpha"},
    "jobs": set(),
    "control": {"alpha"},
    "blending": {"alpha"},
    "engines": {"blending", "bundle", "imaging"},
    "video_io": {"imaging", "jobs"},
    "reports": {"imaging"},
    "tuning": {"imaging", "reports"},
    "session": {"engines", "blending", "alpha", "bundle", "imaging"},
    "calibration": {"engines", "blending", "bundle", "checkpoints"},
    "spatial": {"session", "video_io", "imaging", "alpha"},
    "compatibility": {
        "session",
        "engines",
        "calibration",
        "exporters",
        "blending",
        "bundle",
        "checkpoints",
        "imaging",
        "reports",
    },
    "latency": {"session", "engines", "exporters", "video_io", "control", "blending", "bundle", "imaging"},
    "webui": {"session", "control", "alpha", "video_io", "imaging"},
    "website": {"webui", "engines", "bundle", "imaging", "reports"},
    "vapoursynth": {"session", "control", "bundle", "imaging"},
    "notebook": {"session", "alpha", "imaging"},
    "api": LIBRARY - {"api"},
    "cli": {
        "api",
        "alpha",
        "bundle",
        "blending",
        "spatial",
        "imaging",
        "tuning",
        "video_io",
        "webui",
        "session",
        "control",
        "jobs",
    },
    "dni_deploy": {
        "api",
        "notebook",
        "jobs",
        "session",
        "bundle",
        "checkpoints",
        "alpha",
        "spatial",
        "control",
        "video_io",
        "imaging",
    },
    "__main__": {"cli"},
    "benchmarks": LIBRARY | {"cli", "dni_deploy"},
}
"""Part -> the parts it may import besides FOUNDATION; docs/architecture.md says what each is.

A part is a package, a flat module of dni_deploy/, or "dni_deploy" for its public names.
"""
ENGINE_LAYERS = (
    ("profile",),
    ("interface", "ort_session"),
    ("frame_conversion",),
    ("lowering",),
    ("calibrated_network", "verification"),
    ("cuda", "onnxruntime_cpu"),
    ("default_profile", "onnxruntime_gpu", "trt"),
    ("registry",),
)
"""Inside engines/, from the ground up: a module imports from its own layer and from below."""


@cache
def list_modules() -> dict[str, Path]:
    """Every module of the packages by its dotted name."""
    modules = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def part_of(module: str) -> str:
    top, _, rest = module.partition(".")
    return rest.partition(".")[0] or top if top == "dni_deploy" else top


@cache
def imports_of(module: str) -> frozenset[str]:
    """Our modules that a module imports: at its top, inside functions, for type checking, or by name in a text."""
    return frozenset(name for name in _read_imports(module) if name != module)


def _read_imports(module: str) -> Iterator[str]:
    modules = list_modules()
    for node in ast.walk(ast.parse(modules[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in modules else node.module
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.partition(":")[0]
            if "." in name and name in modules:
                yield name


def test_every_part_has_a_row() -> None:
    assert {part_of(module) for module in list_modules()} == set(MAY_IMPORT)


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_imports_only_what_its_row_names(part: str) -> None:
    allowed = MAY_IMPORT[part] | FOUNDATION | {part}
    forbidden = [
        f"{module} imports {other}, but {part} may import only {', '.join(sorted(allowed - {part}))}"
        for module in list_modules()
        if part_of(module) == part
        for other in sorted(imports_of(module))
        if part_of(other) not in allowed
    ]
    assert not forbidden, "\n".join(forbidden)


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_no_row_allows_what_nobody_imports(part: str) -> None:
    used = {part_of(other) for module in list_modules() if part_of(module) == part for other in imports_of(module)}
    if part not in ("api", "benchmarks"):
        assert MAY_IMPORT[part] <= used, f"{part} does not import {sorted(MAY_IMPORT[part] - used)}"


def test_the_packages_form_no_circle() -> None:
    graph = {
        part: {part_of(other) for m in list_modules() if part_of(m) == part for other in imports_of(m)} - {part}
        for part in MAY_IMPORT
    }
    graphlib.TopologicalSorter(graph).prepare()


def test_the_modules_form_no_circle() -> None:
    """Late imports count, too: a circle that is hidden inside a function is one. A package without code is no step of it."""
    graph = {module: set(imports_of(module)) for module in list_modules()}
    graphlib.TopologicalSorter(graph).prepare()


def test_engines_import_downward() -> None:
    layer = {name: number for number, names in enumerate(ENGINE_LAYERS) for name in names}
    upward = [
        f"{module} imports {other}"
        for module in list_modules()
        if module.startswith("engines.")
        for other in imports_of(module)
        if other.startswith("engines.") and layer[other.split(".")[1]] > layer[module.split(".")[1]]
    ]
    assert not upward, "\n".join(upward)


@pytest.mark.parametrize("module", [name for name in list_modules() if name.startswith("engines")])
def test_engines_do_without_torch(module: str) -> None:
    tree = ast.parse(list_modules()[module].read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert "torch" not in {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("module", list_modules())
def test_no_module_creates_a_cuda_context_by_import(module: str) -> None:
    assert "pycuda.autoinit" not in list_modules()[module].read_text(encoding="utf-8")
