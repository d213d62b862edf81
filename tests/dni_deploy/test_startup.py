"""Importing the package and printing help load few modules, and a missing optional package stops only what needs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY_PACKAGES = ("torch", "onnx", "onnxruntime", "tensorrt", "pycuda", "cuda", "av", "PIL", "matplotlib")
PRINT_MODULES = "import sys, json; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
IMPORT_WITHOUT = "import sys\nfor name in sys.argv[1].split(','): sys.modules[name] = None\nimport {}"


def run_python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, cwd=ROOT, timeout=120, stdin=subprocess.DEVNULL
    )


@pytest.mark.parametrize(
    ("code", "loads_click"),
    [
        ("import dni_deploy", False),
        ("from dni_deploy.cli.main import main; main(['-h'])", False),
        ("from dni_deploy.cli.main import main; main(['--version'])", False),
        ("from dni_deploy.cli.main import main; main(['nonsense'])", True),
        ("from dni_deploy.cli.main import main; main(['run', '-h'])", True),
        ("from dni_deploy.cli.main import main; main(['doctor', '--json'])", True),
    ],
)
def test_heavy_packages_are_not_loaded(code: str, loads_click: bool) -> None:
    child = run_python(f"{code}\n{PRINT_MODULES}")
    assert child.returncode == 0, child.stderr
    loaded = set(json.loads(child.stdout.splitlines()[-1]))
    assert not loaded & {*HEAVY_PACKAGES, "numpy"}
    assert loads_click or "click" not in loaded


@pytest.mark.parametrize(
    "module", ["dni_deploy.session.session", "dni_deploy.api.run", "dni_deploy.api.sweep", "dni_deploy.api.build"]
)
def test_running_a_bundle_needs_no_torch(module: str) -> None:
    child = run_python(IMPORT_WITHOUT.format(module), "torch,onnxscript,matplotlib")
    assert child.returncode == 0, child.stderr


@pytest.mark.parametrize(
    "module", ["dni_deploy.bundle.bundle", "dni_deploy.checkpoints.family", "dni_deploy.api.inspect", "dni_deploy.api.refit"]
)
def test_reading_a_bundle_needs_neither_torch_nor_an_engine(module: str) -> None:
    child = run_python(IMPORT_WITHOUT.format(module), "torch,onnxscript,matplotlib,onnxruntime")
    assert child.returncode == 0, child.stderr


@pytest.mark.slow
def test_help_takes_little_longer_than_python() -> None:
    """The target is a ratio of 3; both are the best of 15 interleaved runs, since the machine may be busy."""
    seconds: dict[str, list[float]] = {"pass": [], "from dni_deploy.cli.main import main; main(['-h'])": []}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(15):
        for code, samples in seconds.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, env=environment, cwd=ROOT)
            samples.append(time.perf_counter() - start)
    nothing, help_summary = (min(samples) for samples in seconds.values())
    assert help_summary / nothing <= 3


def test_no_module_hides_a_public_name() -> None:
    """Importing dni_deploy.NAME would put the module where `dni_deploy.NAME` should be the function."""
    import dni_deploy

    hidden = [name for name in dni_deploy.__all__ if name != "__version__" and find_spec(f"dni_deploy.{name}")]
    assert not hidden, f"give these modules another name: {hidden}"
