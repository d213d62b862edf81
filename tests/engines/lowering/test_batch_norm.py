"""BatchNorm goes into a convolution of its own, else becomes a scale and a shift, else stays."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engines.lowering import batch_norm
from engines.lowering.batch_norm import StandaloneBuilder, build_depthwise_scale, build_elementwise_scale
from engines.lowering.graph_rewriter import GraphRewriter
from tests.engines.conftest import Case
from tests.support.handmade_graphs import HAND, Hand


def shared_convolution() -> Case:
    hand = Hand()
    first = hand.conv("x", 8)
    return hand.case(hand.node("Add", [hand.batch_norm(first), first]))


def rewrite(case: Case, builder: StandaloneBuilder) -> GraphRewriter:
    rewriter = GraphRewriter.from_graph(case.graph, case.weights)
    rewriter.apply(batch_norm.rewrite, builder)
    return rewriter


@pytest.mark.parametrize(
    ("make_case", "builder", "operators"),
    [
        (HAND["conv_bn"], build_depthwise_scale, ["Conv", "Conv"]),
        (HAND["bn_first"], build_depthwise_scale, ["Conv", "Conv"]),
        (HAND["bn_first"], build_elementwise_scale, ["Mul", "Add", "Conv"]),
        (HAND["linear_bn"], build_elementwise_scale, ["Gemm", "Mul", "Add"]),
        (HAND["linear_bn"], build_depthwise_scale, ["Gemm", "BatchNormalization"]),
        (shared_convolution, build_elementwise_scale, ["Conv", "Mul", "Add", "Add"]),
    ],
)
def test_where_it_goes(make_case: Callable[[], Case], builder: StandaloneBuilder, operators: list[str]) -> None:
    rewriter = rewrite(make_case(), builder)
    assert [node.op_type for node in rewriter.nodes] == operators
    assert len(rewriter.recipes.folds) == (0 if "BatchNormalization" in operators else 1)


def test_the_fold_names_the_familys_tensors() -> None:
    [fold] = rewrite(HAND["conv_without_bias_bn"](), build_depthwise_scale).recipes.folds
    assert (fold.weight, fold.axis, fold.convolution_bias) == ("conv0.weight", 0, None)
    assert (fold.gamma, fold.beta, fold.mean, fold.variance) == tuple(
        f"bn1.{part}" for part in ("weight", "bias", "running_mean", "running_var")
    )
    assert fold.epsilon == pytest.approx(1e-3, rel=1e-6)  # a float32 attribute
