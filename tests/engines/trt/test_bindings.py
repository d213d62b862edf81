"""Bindings: what we call of TensorRT exists, and takes our arguments, in the real bindings of three versions.

The calls are those that the fake saw while our code, and Polygraphy below it, built, opened, refitted, ran and closed every
kind of engine. The real bindings are read where DNI_TRT_BINDINGS names a folder with them (bindings.py); CI does.
"""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engines
from tests.engines.conftest import write
from tests.engines.trt import bindings
from tests.engines.trt.alpha_probe_network import engine_class
from tests.engines.trt.conftest import CASES, engine_name, library, picture, profile
from tests.engines.trt.signatures import Parameter, fits, signatures
from tests.fakes.gpu import FakeGpu
from tests.fakes.trt.record import CALLS, Call

SOURCES = sorted((Path(engines.__file__).parent / "trt").glob("*.py"))
KINDS = ("refit", "inputs", "graph", "constant")
GUARDED = {
    "BuilderFlag.REFIT_INDIVIDUAL": "individual_refit",
    "BuilderFlag.STRIP_PLAN": "strip",
    "IProgressMonitor": "progress",
    "OnnxParserFlag": "native_instancenorm",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": "strongly_typed",
    "ExecutionContextAllocationStrategy": "user_memory",
    "ComputeCapability": "portable_plans",
    "DynamicShapesKernelSpecializationStrategy": "runtime_cache",
    "CudaGraphStrategy": "own_cuda_graphs",
}
"""What not every version has, by the feature without which we do not touch it."""


@pytest.fixture(params=bindings.VERSIONS)
def real(request: pytest.FixtureRequest) -> dict[str, Any]:
    reason = bindings.missing(request.param)
    if reason is not None:
        pytest.skip(reason)
    return {**bindings.read(request.param), "short": request.param}


def bases_of(real: dict[str, Any]) -> dict[str, list[str]]:
    """By class: itself and what it inherits from; "members" too for an enum."""
    return {
        name.rpartition(".")[2]: [*one["bases"], *(["members"] if one["members"] else [])]
        for name, one in real["classes"].items()
    }


def wrong(call: Call, real: dict[str, Any]) -> str | None:
    """Why the real bindings would refuse the call, or None."""
    owner = real["classes"].get(call.owner)
    if owner is None:
        return f"there is no class {call.owner}"
    if call.kind == "set":
        return None if owner["properties"].get(call.name) else f"{call.owner}.{call.name} is no property that can be set"
    if call.name not in owner["methods"]:
        return f"there is no method {call.owner}.{call.name}"
    known = signatures(call.name, owner["methods"][call.name])
    if any(fits(parameters, call.kinds, call.named, bases_of(real)) for parameters in known):
        return None
    return f"{call.owner}.{call.name} takes {known}, not {call.kinds} {dict(call.named)}"


def drive(gpu: FakeGpu, folder: Path) -> Iterator[str]:
    """Every kind of engine through its whole life."""
    from engines.interface import BuildOptions, EngineOptions
    from engines.trt import build, load
    from engines.trt.engine import RefitEngine

    for case, kind, precision, strip in [
        *(("bn", kind, precision, False) for kind in KINDS for precision in ("fp32", "fp16")),
        ("instance_norm", "refit", "fp32", False),
        ("bn", "refit", "fp32", True),
    ]:
        if strip and not library().features.strip:
            continue
        bundle = write(CASES[case](), folder / f"{case}-{kind}-{precision}-{strip}.dni")
        options = BuildOptions(precision=precision, profile=profile(bundle), strip=strip)
        build.build_plan(bundle, options, lambda *step: None, engine_class(kind, engine_name()))
        for graph in (False, True):
            engine = load.open_engine(bundle, EngineOptions(slots=2, cuda_graph=graph), engine_class(kind, engine_name()))
            try:
                for slot in (0, 1, 0, 0):
                    engine.refit(slot, np.array([0.25, 0.75]))
                    engine.synchronize(slot)
                    engine.infer(slot, picture())
                    engine.infer(slot, picture())
                if isinstance(engine, RefitEngine):
                    engine.serialize(0)
            finally:
                engine.close()
        yield f"{kind} {precision}"


@pytest.mark.parametrize("gpu", bindings.VERSIONS, indirect=True)
def test_our_calls_fit_the_real_signatures(gpu: FakeGpu, tmp_path: Path) -> None:
    version = gpu.tensorrt
    CALLS.pop(version, None)
    assert len(list(drive(gpu, tmp_path))) >= 9
    calls = CALLS[version]
    owners = {call.owner for call in calls}
    assert {
        "Builder",
        "OnnxParser",
        "IBuilderConfig",
        "Runtime",
        "ICudaEngine",
        "IExecutionContext",
        "Refitter",
        "Weights",
    } <= owners
    assert len(calls) > 40
    reason = bindings.missing(version)
    if reason is not None:
        pytest.skip(reason)
    found = bindings.read(version)
    problems = [problem for problem in (wrong(call, found) for call in sorted(calls)) if problem]
    assert not problems, "\n".join(problems)


def test_wrong_calls_are_noticed(real: dict[str, Any]) -> None:
    """The check itself can fail: a method, an argument, a type, a name and a property that are not there."""
    right = Call("Refitter", "set_named_weights", ("str", "Weights"))
    assert wrong(right, real) is None
    assert wrong(Call("Refitter", "refit_engine", ()), real) is not None
    assert wrong(right._replace(kinds=("str",)), real) is not None
    assert wrong(right._replace(kinds=("str", "Weights", "TensorLocation", "int")), real) is not None
    assert wrong(right._replace(kinds=("str", "ndarray")), real) is not None
    assert wrong(right._replace(kinds=("str",), named=(("weight", "Weights"),)), real) is not None
    assert wrong(right._replace(kinds=("str",), named=(("weights", "Weights"),)), real) is None
    assert wrong(Call("ICudaEngine", "refittable", ("bool",), kind="set"), real) is not None
    assert wrong(Call("Refitter", "max_threads", ("int",), kind="set"), real) is None
    located = wrong(right._replace(kinds=("str", "Weights", "TensorLocation")), real)
    assert (located is None) is (real["short"] != "8.6")


@pytest.mark.parametrize("gpu", bindings.VERSIONS, indirect=True)
def test_the_stand_in_offers_nothing_that_is_not_there(gpu: FakeGpu) -> None:
    """Classes, methods with their parameters' names, properties that can be set, enums with their numbers."""
    tensorrt = library().trt
    reason = bindings.missing(gpu.tensorrt)
    if reason is not None:
        pytest.skip(reason)
    found = bindings.read(gpu.tensorrt)
    assert found["version"] == tensorrt.__version__
    problems = [name for name in vars(tensorrt) if not name.startswith("__") and name not in found["names"]]
    for name, value in vars(tensorrt).items():
        if not isinstance(value, type) or name not in found["classes"]:
            continue
        one = found["classes"][name]
        if one["members"] is not None:
            members = {member: int(each) for member, each in value.__members__.items()}  # type: ignore[attr-defined]
            problems += [f"{name}.{member}" for member, number in members.items() if one["members"].get(member) != number]
            continue
        for attribute in (each for each in vars(value) if not each.startswith("_")):
            held = vars(value)[attribute]
            if attribute not in one["attributes"]:
                problems.append(f"{name}.{attribute}")
            elif isinstance(held, property):
                if attribute not in one["properties"] or (held.fset is not None and not one["properties"][attribute]):
                    problems.append(f"{name}.{attribute} as a property")
            elif inspect.isfunction(held) and not _same_parameters(held, signatures(attribute, one["methods"][attribute])):
                problems.append(f"{name}.{attribute}: its parameters")
    assert not problems


def _same_parameters(function: Any, known: list[list[Parameter]]) -> bool:
    """Names and order, as far as the fake says them."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    names = [one.name for one in inspect.signature(function).parameters.values() if one.kind in kinds][1:]
    return not known or any([one.name for one in parameters][: len(names)] == names for parameters in known)


@pytest.mark.parametrize("gpu", bindings.VERSIONS, indirect=True)
def test_features_are_the_same_on_the_real_bindings(gpu: FakeGpu) -> None:
    """What we ask of the module is answered alike by the fake and by the real one."""
    from engines.trt.features import Features

    tensorrt = library().trt
    reason = bindings.missing(gpu.tensorrt)
    if reason is not None:
        pytest.skip(reason)
    code = (
        f"import json, {bindings.module_name(gpu.tensorrt)} as trt; from dataclasses import asdict; "
        "from engines.trt.features import Features; print(json.dumps(asdict(Features.from_module(trt))))"
    )
    assert json.loads(bindings.run(gpu.tensorrt, code)) == asdict(Features.from_module(tensorrt))


def _mentioned() -> dict[str, set[str]]:
    """Dotted names below `trt` in our sources, longest form, with the files that have them."""
    found: dict[str, set[str]] = {}
    for path in SOURCES:
        inner: set[int] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names, each = [], node
            while isinstance(each, ast.Attribute) and each.attr != "trt":
                names.append(each.attr)
                inner.add(id(each.value))
                each = each.value
            is_module = isinstance(each, ast.Attribute) or (isinstance(each, ast.Name) and each.id == "trt")
            if names and is_module and id(node) not in inner:
                found.setdefault(".".join(reversed(names[-2:])), set()).add(path.name)
    return found


def _has(real: dict[str, Any], name: str) -> bool:
    owner, _, attribute = name.partition(".")
    if owner not in real["names"]:
        return False
    return not attribute or owner not in real["classes"] or attribute in real["classes"][owner]["attributes"]


def test_names_in_our_sources_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """In every version, or in those where the feature that guards it is there."""
    from engines.trt.features import Features
    from tests.fakes.gpu import TENSORRT, TENSORRT_RTX, install

    reason = next(filter(None, map(bindings.missing, bindings.VERSIONS)), None)
    if reason is not None:
        pytest.skip(reason)
    known = {version: bindings.read(version) for version in bindings.VERSIONS}
    offered = {}
    for version in bindings.VERSIONS:
        install(monkeypatch, tensorrt=version)
        offered[version] = Features.from_module(TENSORRT_RTX if version.startswith("rtx") else TENSORRT)
    mentioned = _mentioned()
    assert "Refitter" in mentioned
    problems = []
    for name, files in mentioned.items():
        where = [version for version in known if _has(known[version], name)]
        guard = GUARDED.get(name) or GUARDED.get(name.partition(".")[0])
        if not where:
            problems.append(f"{name} ({', '.join(sorted(files))}) exists in no version")
        elif len(where) < len(known) and guard is None and "features.py" not in files:
            problems.append(f"{name} ({', '.join(sorted(files))}) exists in {where} only")
        elif len(where) < len(known) and guard is not None:
            touched = [version for version in known if getattr(offered[version], guard)]
            if not set(touched) <= set(where):
                problems.append(f"{name} is touched in {touched} and exists in {where}")
    assert not problems, "\n".join(problems)


def test_what_tensorrt_calls_of_ours(gpu: FakeGpu) -> None:
    """The logger's and the monitor's methods have the real ones' names and parameters."""
    import tensorrt

    from engines.trt.builder import make_progress_monitor
    from engines.trt.messages import get_logger

    if bindings.missing("11.4") is not None:
        pytest.skip(str(bindings.missing("11.4")))
    classes = bindings.read("11.4")["classes"]
    for ours, name, methods in (
        (type(get_logger(tensorrt)), "ILogger", ["log"]),
        (type(make_progress_monitor(tensorrt, None)), "IProgressMonitor", ["phase_start", "step_complete", "phase_finish"]),
    ):
        for method in methods:
            assert method in vars(ours)
            assert _same_parameters(vars(ours)[method], signatures(method, classes[name]["methods"][method]))
