"""Bindings: the classes, signatures and enums of the real TensorRT bindings, read without TensorRT.

The bindings are separate wheels (unpacked below the folder that DNI_TRT_BINDINGS names, one folder per version) and need
nothing of the libraries but a few factory symbols. Stub libraries give these; every factory returns NULL, and nothing is
called. Each version is imported in a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

FOLDER = "DNI_TRT_BINDINGS"
VERSIONS = ("8.6", "10.16", "11.4", "rtx-1.7")
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser", "nvparsers", "tensorrt_rtx", "tensorrt_onnxparser_rtx")
SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "getBuilderPluginRegistry",
    "getPluginRegistry",
    "initLibNvInferPlugins",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getNvOnnxParserVersion",
    # of the parsers that 8.6 still had
    "_ZN11nvuffparser15createUffParserEv",
    "_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi",
    "_ZN14nvcaffeparser117createCaffeParserEv",
    "_ZN14nvcaffeparser123shutdownProtobufLibraryEv",
)

READ = """
import importlib, json, sys, types
trt = importlib.import_module(MODULE)

def classes(holder, prefix=""):
    for name, value in sorted(vars(holder).items()):
        if isinstance(value, type) and not (prefix and name == "__class__"):
            yield prefix + name, value
            if value.__module__.startswith("tensorrt") and not prefix:
                yield from classes(value, prefix + name + ".")

def describe(kind):
    methods, properties = {}, {}
    for base in reversed(kind.__mro__):
        if base is object or base.__module__ in ("pybind11_builtins", "builtins"):
            continue
        for name, value in vars(base).items():
            if isinstance(value, property):
                properties[name] = value.fset is not None
            elif type(value).__name__ == "pybind11_static_property":
                properties[name] = True
            elif callable(value) or isinstance(value, (staticmethod, classmethod)):
                methods[name] = getattr(getattr(kind, name), "__doc__", None) or ""
    members = getattr(kind, "__members__", None)
    return {
        "methods": methods,
        "properties": properties,
        "attributes": dir(kind),
        "members": None if members is None else {name: int(value) for name, value in members.items()},
        "bases": [base.__name__ for base in kind.__mro__],
    }

found = {name: describe(kind) for name, kind in classes(trt)}
functions = {
    name: getattr(value, "__doc__", None) or "" for name, value in vars(trt).items()
    if isinstance(value, (types.FunctionType, types.BuiltinFunctionType))
}
json.dump({"version": trt.__version__, "classes": found, "functions": functions, "names": sorted(vars(trt))}, sys.stdout)
"""


def missing(version: str) -> str | None:
    """Why the bindings of this version cannot be read here, or None."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return f"{FOLDER} is not set"
    if not (Path(folder) / version / module_name(version)).is_dir():
        return f"{FOLDER} has no {version}"
    return None if shutil.which("gcc") else "there is no gcc for the stub libraries"


def module_name(version: str) -> str:
    return "tensorrt_rtx_bindings" if version.startswith("rtx") else "tensorrt_bindings"


@cache
def read(version: str) -> dict[str, Any]:
    """Classes and functions of one version.

    {"version", "names", "functions": {name: docstring}, "classes": {name: {"methods": {name: docstring}, "properties": {name:
    writable}, "attributes": [name], "members": {name: number} or None, "bases": [name]}}}
    """
    content: dict[str, Any] = json.loads(run(version, READ.replace("MODULE", repr(module_name(version)))))
    return content


def run(version: str, code: str) -> str:
    """What a program prints that imports these bindings, and this repository."""
    with TemporaryDirectory() as folder:
        source = Path(folder) / "stub.c"
        source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in SYMBOLS))
        major = version.removeprefix("rtx-").partition(".")[0]
        for name in LIBRARIES:
            target = f"lib{name}.so.{major}"
            command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{target}", "-o", str(Path(folder) / target), str(source)]
            subprocess.run(command, check=True, capture_output=True)
        bindings = Path(os.environ[FOLDER]) / version
        found = os.pathsep.join((str(bindings), str(Path(__file__).parents[3])))
        environment = {**os.environ, "LD_LIBRARY_PATH": folder, "PYTHONPATH": found}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the bindings of {version} do not import: {done.stderr[-2000:]}")
    return done.stdout
