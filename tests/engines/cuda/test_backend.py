"""The backend: one of two packages, with the same names."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.gpu import DRIVER, FakeGpu

ROOT = Path(__file__).parents[3]


def test_every_module_asks_the_backend_and_no_package() -> None:
    """Only engines/cuda/backend.py and the implementation for cuda-bindings import one."""
    importers = set()
    for package in ("dni_deploy", "engines", "exporters", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                importers |= {path.name for name in names if name.partition(".")[0] in ("pycuda", "cuda")}
    assert importers == {"backend.py", "cuda_bindings.py"}


def test_nothing_is_imported_that_nobody_uses(gpu: FakeGpu) -> None:
    from engines.cuda import backend

    used = set()
    for package in ("dni_deploy", "engines", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if "import backend as cuda" in text:
                used |= {name for name in backend.__all__ if f"cuda.{name}" in text}
    assert used == set(backend.__all__)


def test_both_packages_have_the_names(gpu: FakeGpu) -> None:
    from engines.cuda import backend, cuda_bindings

    for name in backend.__all__:
        assert hasattr(cuda_bindings, name), name
        assert hasattr(DRIVER, name), name


PROGRAM = """
import sys
from tests.fakes import cuda_bindings, pycuda_driver
from tests.fakes.gpu import *
for name in sys.argv[1].split(","):
    if name == "pycuda":
        pycuda_driver.fill(DRIVER)
        sys.modules.update({"pycuda": PYCUDA, "pycuda.driver": DRIVER})
    elif name:
        cuda_bindings.fill(BINDINGS_DRIVER)
        sys.modules.update({"cuda": CUDA, "cuda.bindings": BINDINGS, "cuda.bindings.driver": BINDINGS_DRIVER})
from engines.cuda import backend
print(backend.Stream.__module__)
"""


@pytest.mark.parametrize(
    ("installed", "variable", "module"),
    [
        ("pycuda", "", "tests.fakes.pycuda.stream"),
        ("bindings", "", "engines.cuda.cuda_bindings"),
        ("pycuda,bindings", "", "tests.fakes.pycuda.stream"),
        ("pycuda,bindings", "cuda-bindings", "engines.cuda.cuda_bindings"),
    ],
)
def test_the_chosen_package_is_imported(installed: str, variable: str, module: str) -> None:
    environment = {**os.environ, "DNI_CUDA": variable}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, installed], capture_output=True, text=True, timeout=60, cwd=ROOT, env=environment
    )
    assert done.stdout.strip() == module, done.stderr


def test_without_a_package_the_import_says_so() -> None:
    environment = {**os.environ, "DNI_CUDA": "nothing"}
    done = subprocess.run(
        [sys.executable, "-c", "import engines.cuda.backend"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env=environment,
    )
    assert "UnavailableError: No GPU can be used: DNI_CUDA is 'nothing', which is neither" in done.stderr
