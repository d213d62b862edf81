"""Weight groups are read from the graph, and patterns select by name and role."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from dni_deploy.blending.weight_groups import GroupedWeight, WeightGroups
from dni_deploy.bundle.bundle import Bundle
from tests.support import pico_bundle

GROUPS = WeightGroups(
    tuple(
        GroupedWeight(f"body.{layer}.{name}", roles, 2 * layer + number)
        for layer in range(4)
        for number, weights in enumerate(
            (
                (("weight", ("conv", "weight")), ("bias", ("conv", "bias"))),
                (("norm.weight", ("norm", "weight")), ("norm.running_var", ("norm", "statistics"))),
            )
        )
        for name, roles in weights
    )
)


def test_roles_select_layers_and_parts() -> None:
    picked = {
        role: [GROUPS.names[index] for index in GROUPS.select(f"{role}:body.2.*")] for role in ("conv", "bias", "statistics")
    }
    assert picked == {
        "conv": ["body.2.weight", "body.2.bias"],
        "bias": ["body.2.bias"],
        "statistics": ["body.2.norm.running_var"],
    }
    assert GROUPS.roles == ("conv", "norm", "weight", "bias", "statistics")


def test_weight_groups_are_read_from_the_graph(tmp_path: Path) -> None:
    bundle = pico_bundle.write(tmp_path / "pico.dni")
    stored_bundle = Bundle.open(bundle.path)
    groups = WeightGroups.from_graph(stored_bundle.read_graph(), stored_bundle.weight_names)
    roles_and_depth = {weight.name: (weight.roles, weight.depth) for weight in groups.weights}
    assert roles_and_depth == {
        "conv.weight": (("conv", "weight"), 0),
        "conv.bias": (("conv", "bias"), 0),
        "bn.weight": (("norm", "weight"), 1),
        "bn.bias": (("norm", "bias"), 1),
        "bn.running_mean": (("norm", "statistics"), 1),
        "bn.running_var": (("norm", "statistics"), 1),
        "prelu.weight": (("activation", "weight"), 2),
    }


def test_a_linear_layer_in_two_nodes_is_one_layer_and_data_movement_is_skipped() -> None:
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"]),
        helper.make_node("MatMul", ["x", "t"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["l"]),
        helper.make_node("Mul", ["l", "gain"], ["y"]),
    ]
    names = ("gain", "w", "b")
    values = [numpy_helper.from_array(np.ones((3, 3) if name == "w" else 3, np.float32), name) for name in names]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy"]
    groups = WeightGroups.from_graph(helper.make_model(helper.make_graph(nodes, "linear", ends[:1], ends[1:], values)), names)
    assert groups.weights == (
        GroupedWeight("gain", ("other", "weight"), 1),
        GroupedWeight("w", ("linear", "weight"), 0),
        GroupedWeight("b", ("linear", "bias"), 0),
    )
