"""A plan's identity: an edit that changes no graph keeps every plan; another lowering, recipe or flag makes another one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError, UnavailableError
from engines.interface import PRECISIONS, BuildOptions
from engines.lowering.gpu import LoweredGraph
from engines.lowering.recipes import Recipes
from engines.registry import build_engine, load_engine
from engines.trt.plan import PLAN_FORMAT, PLAN_MAGIC, find_plan, search_plans
from engines.trt.plan_identity import BuildSettings
from tests.engines.onnxruntime_cpu.test_plan import CHANGES, renamed_node
from tests.engines.trt.conftest import VERSIONS, engine_name, library, profile
from tests.fakes.gpu import FakeGpu

CHILD = """
import json, sys
import pytest
from dni_deploy.bundle.bundle import Bundle
from engines.onnxruntime_cpu.lowering.passes import lower_for_cpu
from engines.onnxruntime_cpu.plan import LayoutIdentity, plan_path
from engines.trt.plan import find_plan
from tests.fakes.gpu import install
import engines
with pytest.MonkeyPatch.context() as patch:
    install(patch)
    bundle = Bundle.open(sys.argv[1])
    cpu = plan_path(bundle, LayoutIdentity.of(*lower_for_cpu(bundle.read_graph(), bundle.weight_names)))
    print(json.dumps([engines.__file__, cpu.name, find_plan(bundle).name]))
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
    plans = [build(bundle, name) for name in ("onnxruntime", "tensorrt")]
    root, copy = Path(__file__).parents[3], tmp_path / "copy"
    for package in ("dni_deploy", "engines", "tests"):
        shutil.copytree(root / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    edit(copy)
    command = [sys.executable, "-c", CHILD, str(bundle.path)]
    child = subprocess.run(
        command, cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)}, capture_output=True, text=True, timeout=120
    )
    assert child.returncode == 0, child.stderr
    source, *names = json.loads(child.stdout)
    assert Path(source).parent == copy / "engines"
    assert names == [path.name for path in plans]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("gpu", VERSIONS, indirect=True)
def test_another_lowering_or_recipe_makes_another_plan(
    change: Callable[[onnx.ModelProto, Recipes], None], bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = build(bundle, engine_name())
    assert find_plan(bundle, library_name=engine_name()) == before

    def changed(*given: Any, **options: Any) -> LoweredGraph:
        lowered = real(*given, **options)
        change(lowered.graph, lowered.recipes)
        return lowered

    from engines.trt import network

    real = network.lower_for_gpu
    monkeypatch.setattr(network, "lower_for_gpu", changed)
    assert find_plan(bundle, library_name=engine_name()) is None
    with pytest.raises(UnavailableError, match=f"{before.name} was built from another bundle or another lowering") as refusal:
        load_engine(bundle, engine_name())
    assert not isinstance(refusal.value, EngineError)  # auto passes it over
    if change is renamed_node:  # the others would not compute the same picture
        after = build(bundle, engine_name())
        assert after != before
        assert find_plan(bundle, library_name=engine_name()) == after


@pytest.mark.parametrize("gpu", VERSIONS, indirect=True)
def test_another_flag_makes_another_plan(bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build(bundle, engine_name())
    real = BuildSettings.choose
    monkeypatch.setattr(BuildSettings, "choose", lambda *given: replace(real(*given), tf32=True))
    found, rejected = search_plans(bundle, library_name=engine_name())
    assert found is None
    assert rejected == f"{before.name} was built with tf32 False, and here it is True"
    with pytest.raises(UnavailableError, match=r"was built with tf32 False, and here it is True\): dni-deploy build"):
        load_engine(bundle, engine_name())
    assert build(bundle, engine_name()) != before


@pytest.mark.parametrize("gpu", VERSIONS, indirect=True)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_builder_sets_what_the_settings_say_and_nothing_else(
    precision: str, bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flag that is set past the settings would be in no plan's identity."""
    from engines.trt import builder

    configs: list[Any] = []
    real = builder._make_config

    def spied(request: Any, *more: Any) -> Callable[[Any, Any], Any]:
        make = real(request, *more)

        def call(*given: Any) -> Any:
            configs.append((request.settings, make(*given)))
            return configs[-1][1]

        return call

    monkeypatch.setattr(builder, "_make_config", spied)
    build_engine(bundle, engine_name(), BuildOptions(profile=profile(bundle), precision=precision))
    ((settings, config),) = configs
    trt = library().trt
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
    assert {feature.name for feature in config._preview} == set(settings.preview_features)
    assert settings.refit or settings.refit_individual
    assert settings.tf32 == (precision == "tf32")


@pytest.mark.parametrize("gpu", VERSIONS, indirect=True)
def test_a_plan_of_an_older_version(bundle: Bundle, gpu: FakeGpu) -> None:
    """It is named, and what to do; auto goes on without it."""
    path = build(bundle, engine_name())
    path.write_bytes(PLAN_FORMAT + b"1\n" + path.read_bytes()[len(PLAN_MAGIC) :])
    older = f"{path.name} was built by an older version of dni-deploy"
    with pytest.raises(UnavailableError, match=rf"\({older}\): dni-deploy build --engine {engine_name()}\.$"):
        load_engine(bundle, engine_name())
    path.unlink()
    assert build(bundle, engine_name()) == path


@pytest.mark.parametrize("gpu", VERSIONS, indirect=True)
def test_the_graph_is_lowered_once(bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an opening as by a build: the search for a plan hands over the graph that it compared with."""
    from engines.trt import network

    calls: list[str] = []
    real = network.lower_for_gpu

    def count(*given: Any, **options: Any) -> LoweredGraph:
        calls.append(given[2])
        return real(*given, **options)

    monkeypatch.setattr(network, "lower_for_gpu", count)
    build(bundle, engine_name())
    assert len(calls) == 1
    for name in (engine_name(), "auto"):
        calls.clear()
        load_engine(bundle, name).close()
        assert len(calls) == 1
