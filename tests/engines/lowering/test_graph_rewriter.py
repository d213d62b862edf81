"""The rewriter: what it knows of a graph, what is left out when it is built, and what it logs of a pass."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from onnx import helper

from engines.lowering import batch_norm
from engines.lowering.graph_rewriter import GraphRewriter, read_attributes
from tests.engines.conftest import Case
from tests.support.handmade_graphs import HAND


@pytest.fixture
def case() -> Case:
    return HAND["conv_bn"]()


@pytest.fixture
def rewriter(case: Case) -> GraphRewriter:
    return GraphRewriter.from_graph(case.graph, case.weights)


def test_it_starts_with_recipes_that_copy(case: Case, rewriter: GraphRewriter) -> None:
    assert set(rewriter.recipes.linear) == set(case.weights)
    values = rewriter.recipes.compute_values(case.members[0])
    for name, value in values.items():
        np.testing.assert_array_equal(value, case.members[0][name])


def test_shapes_and_channels_are_inferred(rewriter: GraphRewriter) -> None:
    first = rewriter.nodes[0]
    assert rewriter.channels[first.output[0]] == 16
    assert rewriter.shapes[first.output[0]] == (None, 16, None, None)
    assert rewriter.count_consumers()[first.output[0]] == 1
    assert rewriter.count_consumers()[next(iter(rewriter.outputs))] == 1
    assert rewriter.find_producers()[first.output[0]] is first


def test_a_replacement_of_none_keeps_the_node_and_an_empty_one_removes_it(rewriter: GraphRewriter) -> None:
    before = list(rewriter.nodes)
    rewriter.replace_nodes(lambda node: None)
    assert rewriter.nodes == before
    rewriter.replace_nodes(lambda node: [] if node is before[1] else None)
    assert rewriter.nodes == [before[0], before[2]]


def test_a_constant_is_kept_once_and_left_out_where_nothing_reads_it(rewriter: GraphRewriter) -> None:
    name = rewriter.add_constant("c", np.ones(1, np.float32))
    assert rewriter.add_constant("c", np.zeros(1, np.float32)) == name
    np.testing.assert_array_equal(rewriter.get_constant("c"), [1.0])
    assert rewriter.get_constant("conv0.weight") is None
    model, recipes = rewriter.build_graph()
    assert "c" not in {tensor.name for tensor in model.graph.initializer}
    assert set(recipes.linear) == {tensor.name for tensor in model.graph.initializer}


def test_a_pass_is_logged_with_what_it_changed(rewriter: GraphRewriter, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "engines"):
        rewriter.apply(lambda rewriter: None)
    assert caplog.records == []
    with caplog.at_level(logging.DEBUG, "engines"):
        rewriter.apply(batch_norm.rewrite, batch_norm.build_elementwise_scale)
    assert caplog.messages == ["pass batch_norm: 3 to 2 nodes, 8 to 9 weights, 1 BatchNorms folded"]


def test_attributes_are_python_values() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], group=2, auto_pad="NOTSET")
    assert read_attributes(node) == {"kernel_shape": [3, 3], "group": 2, "auto_pad": b"NOTSET"}
    assert read_attributes(onnx.NodeProto()) == {}
