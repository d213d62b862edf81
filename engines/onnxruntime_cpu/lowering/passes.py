"""The passes that keep a bundle's graph in ONNX Runtime's blocked layout, in their order.

To add one, add a file with a function `rewrite(rewriter)`, a line here, and a test that shows the same output and how many
reorders are gone. Passes that serve other backends too lie in engines/lowering.
"""

from __future__ import annotations

import onnx

from engines.lowering import batch_norm
from engines.lowering.graph_rewriter import GraphRewriter
from engines.lowering.recipes import Recipes
from engines.onnxruntime_cpu.lowering import narrow_output, nearest_upsample, prelu, scalar_mul

LOWERING_PASSES = (batch_norm.rewrite, scalar_mul.rewrite, prelu.rewrite, narrow_output.rewrite, nearest_upsample.rewrite)


def lower_for_cpu(graph: onnx.ModelProto, weight_names: tuple[str, ...]) -> tuple[onnx.ModelProto, Recipes]:
    """Lowers a bundle's graph.

    Args:
        graph: The bundle's graph; it is not changed, and the initializers in `weight_names` need no data.
        weight_names: Names of the initializers that differ between members.

    Returns:
        A graph whose weights are float32 initializers named as in the recipes, without data; and the recipes.
    """
    rewriter = GraphRewriter.from_graph(graph, weight_names)
    for rewrite in LOWERING_PASSES:
        rewriter.apply(rewrite)
    return rewriter.build_graph()
