"""The identity of a plan for ONNX Runtime: another lowering, recipe or setting makes another one, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import BundleError
from dni_deploy.utils.derived_file import SEAL_BYTES
from engines.interface import BuildOptions
from engines.lowering.recipes import Recipes
from engines.onnxruntime_cpu import runtime
from engines.onnxruntime_cpu.layout import find_layout
from engines.onnxruntime_cpu.lowering import nearest_upsample, passes
from engines.onnxruntime_cpu.lowering.passes import lower_for_cpu
from engines.onnxruntime_cpu.plan import LayoutIdentity, plan_path, read_plan
from engines.registry import build_engine
from tests.engines.conftest import identify_plan, write
from tests.support.handmade_graphs import HAND


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write(HAND["conv_bn"](), tmp_path / "x.dni", members=3)


def build(bundle: Bundle) -> Path:
    built = build_engine(bundle, "onnxruntime", BuildOptions()).plan_path
    assert built is not None
    return built


def renamed_node(graph: onnx.ModelProto, recipes: Recipes) -> None:
    graph.graph.node[0].name += " by another pass"


def other_recipe(graph: onnx.ModelProto, recipes: Recipes) -> None:
    name = next(iter(recipes.linear))
    recipes.linear[name] = replace(recipes.linear[name], factor=2.0)


def other_fold(graph: onnx.ModelProto, recipes: Recipes) -> None:
    recipes.folds[0] = replace(recipes.folds[0], epsilon=1e-3)


CHANGES = [renamed_node, other_recipe, other_fold]


@pytest.mark.parametrize("change", CHANGES)
def test_another_lowering_or_recipe_makes_another_layout(
    change: Callable[[onnx.ModelProto, Recipes], None], bundle: Bundle
) -> None:
    before = build(bundle)
    assert plan_path(bundle, identify_plan(bundle)) == before
    lowered, recipes = lower_for_cpu(bundle.read_graph(), bundle.weight_names)
    assert LayoutIdentity.of(lowered, recipes) == identify_plan(bundle)
    change(lowered, recipes)
    assert plan_path(bundle, LayoutIdentity.of(lowered, recipes)) != before
    assert read_plan(bundle, LayoutIdentity.of(lowered, recipes)) is None


@pytest.mark.skipif(not runtime.can_block_channels(16), reason="the pass takes no channels on this processor")
def test_a_plan_of_fewer_passes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an older version has left it in the bundle; what the passes leave alone keeps its plan."""
    changed = write(HAND["upsampled_conv"](), tmp_path / "changed.dni")
    unchanged = write(HAND["conv_bn"](), tmp_path / "unchanged.dni")
    with monkeypatch.context() as patch:
        patch.setattr(passes, "LOWERING_PASSES", [one for one in passes.LOWERING_PASSES if one is not nearest_upsample.rewrite])
        before, kept = build(changed), build(unchanged)
    assert read_plan(changed, identify_plan(changed)) is None
    assert build(changed) != before
    assert read_plan(changed, identify_plan(changed)) is not None
    assert plan_path(unchanged, identify_plan(unchanged)) == kept


@pytest.mark.parametrize("field", [field.name for field in fields(runtime.OptimizerSettings)])
def test_another_setting_of_the_optimizer_makes_another_layout(
    field: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = plan_path(bundle, identify_plan(bundle))
    other = {"level": "ORT_ENABLE_EXTENDED", "disabled_optimizers": (), "config": (), "threads": 2}[field]
    monkeypatch.setattr(runtime, "OPTIMIZER_SETTINGS", replace(runtime.OPTIMIZER_SETTINGS, **{field: other}))
    assert plan_path(bundle, identify_plan(bundle)) != before


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("lowered", "1" * 64, "by its lowered graph"),
        ("settings", runtime.OptimizerSettings(threads=7), "by its settings"),
        ("onnxruntime", "0.1", "by its ONNX Runtime"),
        ("machine", "abacus", "by its processor"),
        ("instruction_sets", ("mmx",), "by its instruction sets"),
    ],
)
def test_every_field_makes_another_layout_and_is_named(bundle: Bundle, field: str, value: Any, words: str) -> None:
    path = build(bundle)
    other = replace(identify_plan(bundle), **{field: value})
    target = plan_path(bundle, other)
    assert target != path
    path.rename(target)
    with pytest.raises(BundleError, match=f"is for something else, {words}; write it again with dni-deploy build"):
        read_plan(bundle, other)


def test_the_layouts_map_is_int64_on_disk_and_int32_in_memory(bundle: Bundle) -> None:
    """The file as versions before wrote it; the map is as large as a member then, not twice as large."""
    path = build(bundle)
    stored = load(path.read_bytes()[SEAL_BYTES:])["gather"]
    lowered, recipes = lower_for_cpu(bundle.read_graph(), bundle.weight_names)
    for layout in (read_plan(bundle, identify_plan(bundle)), find_layout(lowered, recipes)):
        assert layout is not None
        assert (stored.dtype, layout.gather.dtype) == (np.int64, np.int32)
        np.testing.assert_array_equal(layout.gather, stored)
