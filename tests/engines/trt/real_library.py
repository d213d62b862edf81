"""Builds plans with the real TensorRT for RTX, which parses, marks weights and builds without a GPU; runs in a process of its own.

    python -m tests.engines.trt.real_library BUNDLE...

Prints one line of JSON per bundle, kind of plan and precision. The library is an installed `tensorrt_rtx`, or lies below the
folder that DNI_TENSORRT_RTX names: lib/ with libtensorrt_rtx.so.1 and libtensorrt_onnxparser_rtx.so.1, site/ with its bindings.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError
from engines.cuda import driver
from engines.profile import Profile
from tests.engines.trt.alpha_probe_network import engine_class

FOLDER = "DNI_TENSORRT_RTX"
KINDS = ("refit", "inputs", "graph", "constant")
PRECISIONS = ("fp32", "fp16")
CAPABILITY = (8, 9)
"""What plans are built for: without a GPU there is none to ask."""


def why_missing() -> str | None:
    """Why the library cannot be used here, or None."""
    if driver.why_no_cuda_package() is not None:  # which the engines import
        return driver.why_no_cuda_package()
    if find_spec("tensorrt_rtx") is not None:
        return None
    folder = os.environ.get(FOLDER)
    if not folder:
        return f"there is no tensorrt_rtx, and {FOLDER} is not set"
    return None if Path(folder, "site", "tensorrt_rtx_bindings").is_dir() else f"{FOLDER} has no bindings"


def run(bundles: Iterable[Path]) -> list[dict[str, Any]]:
    """Runs this program; returns what it printed."""
    environment = dict(os.environ)
    paths = [str(Path(__file__).parents[3])]
    folder = environment.get(FOLDER)
    if folder:
        environment["LD_LIBRARY_PATH"] = str(Path(folder, "lib"))
        paths.append(str(Path(folder, "site")))
    paths += filter(None, [environment.get("PYTHONPATH")])  # where a package of CUDA may lie
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    command = [sys.executable, "-m", "tests.engines.trt.real_library", *map(str, bundles)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=paths[0])
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def load_real_library() -> Any:
    """Imports the library. Its bindings alone lack the package around them, which has no code of its own."""
    from engines.trt.library import Library

    if find_spec("tensorrt_rtx") is None:
        sys.modules["tensorrt_rtx"] = importlib.import_module("tensorrt_rtx_bindings")
    return Library.from_module("tensorrt-rtx", importlib.import_module("tensorrt_rtx"))


def build(library: Any, bundle: Bundle, kind: str, precision: str) -> dict[str, Any]:
    """Builds one plan and loads it again; both may end in an error, which is in the result."""
    from engines.trt.builder import BuildRequest, build_serialized_engine
    from engines.trt.plan_identity import BuildSettings

    network_class = engine_class(kind, library.name).network_class
    lowered = network_class.lower(bundle, library.features.graph_precision(precision))
    network = network_class.from_lowered(bundle, lowered)
    profile = Profile.from_shapes(bundle.signature)
    settings = BuildSettings.choose(network_class.has_refittable_weights, precision, profile, False, library.features)
    names = network.weight_names if network_class.has_refittable_weights else ()
    steps: list[Any] = []
    found: dict[str, Any] = {"weights": len(names), "error": None, "bytes": 0}
    started = time.perf_counter()
    try:
        request = BuildRequest(network.build_model(), settings, names, (CAPABILITY,))
        serialized = build_serialized_engine(request, library, lambda *step: steps.append(step))
        found["bytes"] = len(serialized)
        try:
            library.deserialize_engine(library.trt.Runtime(library.logger), serialized)
        except EngineError as error:
            found["load error"] = str(error)
    except EngineError as error:
        found["error"] = str(error)
    return {**found, "steps": len(steps), "seconds": round(time.perf_counter() - started, 2)}


def main(paths: list[str]) -> Iterator[dict[str, Any]]:
    library = load_real_library()
    for path in paths:
        bundle = Bundle.open(path)
        for kind in KINDS:
            for precision in PRECISIONS:
                result = build(library, bundle, kind, precision)
                yield {"bundle": bundle.path.stem, "kind": kind, "precision": precision, "library": library.title, **result}


if __name__ == "__main__":
    for line in main(sys.argv[1:]):
        print(json.dumps(line), flush=True)
