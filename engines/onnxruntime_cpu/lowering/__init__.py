"""Lowering: rewrite the bundle's graph so that ONNX Runtime keeps it in its blocked layout, and say how its weights are made.

Each pass is one file with one function `rewrite(draft)`; `LOWERING_PASSES` is their order; passes that serve other engines too lie in
engines/lowering. To add one, add a file, a line here and a test that shows the same output and how many reorders are gone.
"""

from __future__ import annotations

import onnx

from engines.lowering import batch_norm
from engines.lowering.graph_rewriter import GraphRewriter
from engines.lowering.recipes import Recipes
from engines.onnxruntime_cpu.lowering import narrow_output, prelu, scalar_mul

LOWERING_PASSES = (batch_norm.rewrite, scalar_mul.rewrite, prelu.rewrite, narrow_output.rewrite)


def lower_for_cpu(graph: onnx.ModelProto, weights: tuple[str, ...]) -> tuple[onnx.ModelProto, Recipes]:
    """The lowered graph and its recipes.

    graph    the bundle's; the initializers named in `weights` need no data. It is not changed.
    Returns  a graph whose weights are float32 initializers named as in the recipes, without data.
    """
    draft = GraphRewriter.from_graph(graph, weights)
    for rewrite in LOWERING_PASSES:
        rewrite(draft)
    return draft.build_graph()
