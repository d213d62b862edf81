"""A plan's identity: an edit that changes no graph keeps every plan; another lowering, recipe or flag makes another one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import onnx
import pytest

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError, UnavailableError
from engines.interface import BuildOptions, EngineOptions
from engines.lowering.gpu import LoweredGraph
from engines.lowering.recipes import Recipes
from engines.registry import build_engine, load_engine
from engines.trt.build_settings import BuildSettings
from engines.trt.plan import FORMAT, PLAN_MAGIC, find_plan, search_plans
from tests.engines.onnxruntime_cpu.test_plan import CHANGES, other_fold, renamed_node
from tests.engines.trt.conftest import VERSIONS, profile
from tests.fakes.gpu import FakeGpu

KINDS = {"tensorrt": "refit", "tensorrt-inputs": "inputs", "tensorrt-graph": "graph", "tensorrt-constant": "constant"}

CHILD = """
import json, sys
import pytest
from dni_deploy.bundle.bundle import Bundle
from engines.onnxruntime_cpu.lowering.passes import lower_for_cpu
from engines.onnxruntime_cpu.plan import PlanIdentity, plan_path
from engines.trt.plan import find_plan
from tests.fakes.gpu import install
import engines
with pytest.MonkeyPatch.context() as patch:
    install(patch)
    bundle = Bundle.open(sys.argv[1])
    cpu = plan_path(bundle, PlanIdentity.of(*lower_for_cpu(bundle.read_graph(), bundle.weight_names)))
    found = [find_plan(bundle, kind) for kind in sys.argv[2:]]
    print(json.dumps([engines.__file__, cpu.name, *(None if path is None else path.name for path in found)]))
"""
"""Prints where the engines come from, then the names of the bundle's plans as the sources in the working directory find them."""


def build(bundle: Bundle, name: str) -> Path:
    options = BuildOptions() if name == "onnxruntime" else BuildOptions(profile=profile(bundle))
    built = build_engine(bundle, name, options).plan_path
    assert built is not None
    return built


def remark(folder: Path) -> None:
    """Adds a comment to every file of the engines."""
    for file in (folder / "engines").rglob("*.py"):
        file.write_text(file.read_text("utf-8") + "\n# a remark\n", "utf-8")


def move(folder: Path) -> None:
    """Moves the file with the recipes, and has every import follow."""
    old = Recipes.__module__
    new = f"{old}_elsewhere"
    (folder / f"{old.replace('.', '/')}.py").rename(folder / f"{new.replace('.', '/')}.py")
    for file in folder.rglob("*.py"):
        text = file.read_text("utf-8")
        if f"from {old} import" in text:
            file.write_text(text.replace(f"from {old} import", f"from {new} import"), "utf-8")


@pytest.mark.parametrize("edit", [remark, move])
def test_an_edit_that_changes_no_graph_keeps_every_plan(
    edit: Callable[[Path], None], bundle: Bundle, gpu: FakeGpu, tmp_path: Path
) -> None:
    plans = [build(bundle, name) for name in ("onnxruntime", *KINDS)]
    root, copy = Path(__file__).parents[3], tmp_path / "copy"
    for package in ("dni_deploy", "engines", "tests"):
        shutil.copytree(root / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    edit(copy)
    command = [sys.executable, "-c", CHILD, str(bundle.path), *KINDS.values()]
    child = subprocess.run(
        command, cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)}, capture_output=True, text=True, timeout=120
    )
    assert child.returncode == 0, child.stderr
    source, *names = json.loads(child.stdout)
    assert Path(source).parent == copy / "engines"
    assert names == [path.name for path in plans]


@pytest.mark.parametrize(
    ("name", "change"), [case for case in product(KINDS, CHANGES) if case != ("tensorrt-graph", other_fold)]
)
@pytest.mark.parametrize("gpu", VERSIONS, indirect=True)
def test_another_lowering_or_recipe_makes_another_plan(
    name: str, change: Callable[[onnx.ModelProto, Recipes], None], bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph that blends by itself has no folds."""
    before = build(bundle, name)
    assert find_plan(bundle, KINDS[name]) == before

    def changed(*given: Any, **options: Any) -> LoweredGraph:
        lowered = real(*given, **options)
        change(lowered.graph, lowered.recipes)
        return lowered

    from engines.trt import network

    real = network.lower_for_gpu
    monkeypatch.setattr(network, "lower_for_gpu", changed)
    assert find_plan(bundle, KINDS[name]) is None
    with pytest.raises(UnavailableError, match=f"{before.name} was built from another bundle or another lowering") as told:
        load_engine(bundle, name)
    assert not isinstance(told.value, EngineError)  # auto passes it over
    if change is renamed_node:  # the others would not compute the same picture
        after = build(bundle, name)
        assert after != before
        assert find_plan(bundle, KINDS[name]) == after


@pytest.mark.parametrize(("name", "function"), [("tensorrt-inputs", "weights_as_inputs"), ("tensorrt-graph", "alpha_as_input")])
def test_what_is_made_of_the_lowered_graph_counts_too(
    name: str, function: str, bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those plans hold the graph that this function gives."""
    from engines.trt import network

    build(bundle, name)
    real = getattr(network, function)

    def changed(*given: Any) -> onnx.ModelProto:
        model: onnx.ModelProto = real(*given)
        model.graph.node[-1].name += " of another kind"
        return model

    monkeypatch.setattr(network, function, changed)
    assert find_plan(bundle, KINDS[name]) is None


@pytest.mark.parametrize("gpu", VERSIONS, indirect=True)
def test_another_flag_makes_another_plan(bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build(bundle, "tensorrt")
    real = BuildSettings.choose
    monkeypatch.setattr(BuildSettings, "choose", lambda *given: replace(real(*given), tf32=True))
    found, rejected = search_plans(bundle, "refit")
    assert found is None
    assert rejected == f"{before.name} was built with tf32 False, and here it is True"
    with pytest.raises(UnavailableError, match=r"was built with tf32 False, and here it is True\): dni-deploy build"):
        load_engine(bundle, "tensorrt")
    assert build(bundle, "tensorrt") != before


@pytest.mark.parametrize("gpu", VERSIONS, indirect=True)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", KINDS)
def test_the_builder_sets_what_the_settings_say_and_nothing_else(
    name: str, precision: str, bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flag that is set past the settings would be in no plan's identity."""
    import tensorrt as trt

    from engines.trt import build

    configs: list[Any] = []
    real = build._make_config

    def spied(order: Any) -> Callable[[Any, Any], Any]:
        make = real(order)

        def call(*given: Any) -> Any:
            configs.append((order.settings, make(*given)))
            return configs[-1][1]

        return call

    monkeypatch.setattr(build, "_make_config", spied)
    build_engine(bundle, name, BuildOptions(profile=profile(bundle), precision=precision))
    ((settings, config),) = configs
    flags = {flag for flag, member in trt.BuilderFlag.__members__.items() if config.get_flag(member)}
    named = {
        "FP16": settings.fp16,
        "REFIT": settings.refit,
        "REFIT_INDIVIDUAL": settings.refit_individual,
        "STRIP_PLAN": settings.strip,
        "TF32": settings.tf32,
    }
    assert flags == {flag for flag, there in named.items() if there}
    assert config.profiling_verbosity == getattr(trt.ProfilingVerbosity, settings.profiling_verbosity)
    sources = {
        source for source, member in trt.TacticSource.__members__.items() if config.get_tactic_sources() >> int(member) & 1
    }
    assert sources == set(settings.tactic_sources or trt.TacticSource.__members__)
    assert settings.refit or settings.refit_individual or name != "tensorrt"


@pytest.mark.parametrize("gpu", VERSIONS, indirect=True)
def test_a_plan_of_an_older_version(bundle: Bundle, gpu: FakeGpu) -> None:
    """It is named, and what to do; auto goes on without it."""
    path = build(bundle, "tensorrt")
    path.write_bytes(FORMAT + b"1\n" + path.read_bytes()[len(PLAN_MAGIC) :])
    older = f"{path.name} was built by an older version of dni-deploy"
    with pytest.raises(UnavailableError, match=rf"\({older}\): dni-deploy build --engine tensorrt\.$"):
        load_engine(bundle, "tensorrt")
    from engines.trt import open_refit

    with pytest.raises(UnavailableError, match=rf"No plan is built .* \({older}\); build one with dni-deploy build"):
        open_refit(bundle, EngineOptions())
    path.unlink()
    assert build(bundle, "tensorrt") == path
