"""The digest of a lowered graph: another recipe makes another one."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import onnx

from engines.lowering.graph_digest import digest_lowered_graph
from engines.lowering.recipes import BatchNormFold, LinearRecipe, Recipes


def test_every_field_of_a_recipe_counts() -> None:
    """One that were left out of the JSON would let a layout be taken for another one."""
    graph = onnx.ModelProto()
    linear = LinearRecipe("w", (2, 3))
    fold = BatchNormFold("w", 0, "b", "gamma", "beta", "mean", "variance", 1e-5, None)
    changed: dict[str, Any] = {
        "source": "v", "shape": (3, 2), "factor": 0.5, "offset": 1.0, "step": 2, "permutation": (1, 0),
        "before_upsample": True, "weight": "v", "axis": 1,
        "bias": "c", "gamma": None, "beta": None, "mean": "m", "variance": "v", "epsilon": 1e-3, "convolution_bias": "d",
    }  # fmt: skip
    recipes = [Recipes({"w": replace(linear, **{each.name: changed[each.name]})}, [fold]) for each in fields(LinearRecipe)]
    recipes += [Recipes({"w": linear}, [replace(fold, **{each.name: changed[each.name]})]) for each in fields(BatchNormFold)]
    recipes += [
        Recipes({"w": linear}, [fold]),
        Recipes({"w": linear}, []),
        Recipes({"w": linear, "v": linear}, [fold]),
        Recipes({"v": linear, "w": linear}, [fold]),  # the order is that of a layout's weights
    ]
    assert len({digest_lowered_graph(graph, each) for each in recipes}) == len(recipes)
