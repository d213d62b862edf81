"""BatchNorm as arithmetic gives what ONNX Runtime's own operator gives, and says where it cannot."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from dni_deploy.errors import EngineError
from dni_deploy.utils.compare_arrays import relative_error
from engines import ort_session
from engines.lowering import batch_norm_nodes
from engines.lowering.graph_rewriter import GraphRewriter
from tests.support.handmade_graphs import HAND, Hand


@pytest.mark.parametrize("name", ["conv_bn", "bn_first", "linear_bn", "bn_without_affine"])
def test_it_computes_the_same(name: str) -> None:
    case = HAND[name]()
    rewriter = GraphRewriter.from_graph(case.graph, case.weights)
    rewriter.apply(batch_norm_nodes.rewrite)
    model, recipes = rewriter.build_graph()
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    before = ort_session.open_cpu_session(ort_session.bind_initializers(case.graph, case.members[0]), 1)
    after = ort_session.open_cpu_session(ort_session.bind_initializers(model, recipes.compute_values(case.members[0])), 1)
    for x in case.inputs():
        # float32 with the factors in another order: some roundings of 6e-8.
        assert relative_error(ort_session.run_session(after, x), ort_session.run_session(before, x)) <= 1e-5


def test_a_parameter_that_the_graph_computes_is_named() -> None:
    hand = Hand()
    y = hand.batch_norm(hand.conv("x", 8), name="bn")
    node = hand.nodes[-1]
    doubled = helper.make_node("Add", ["bn.weight", "bn.weight"], ["doubled"], name="doubled")
    hand.nodes.insert(0, doubled)
    node.input[1] = "doubled"
    case = hand.case(y)
    rewriter = GraphRewriter.from_graph(case.graph, case.weights)
    with pytest.raises(EngineError, match="computes 'doubled'"):
        rewriter.apply(batch_norm_nodes.rewrite)


def test_an_input_of_unknown_rank_is_named() -> None:
    case = HAND["conv_bn"]()
    rewriter = GraphRewriter.from_graph(case.graph, case.weights)
    rewriter.shapes.clear()
    with pytest.raises(EngineError, match="unknown rank"):
        rewriter.apply(batch_norm_nodes.rewrite)
    assert np.all([node.op_type != "Sqrt" for node in rewriter.nodes])
