"""The digest of a lowered graph: equal where the same graph was lowered to the same nodes with the same weight recipes.

It goes by what a lowering gives and not by the source of the lowering, so that plans outlive an edit that changes no graph.
"""

from __future__ import annotations

import json
from hashlib import sha256

import onnx

from engines.lowering.recipes import Recipes


def digest_lowered_graph(graph: onnx.ModelProto, recipes: Recipes) -> str:
    """Digests a lowered graph together with how its weights are made.

    Args:
        graph: The lowered graph, its weights without data.
        recipes: How each weight is made of the family's tensors.

    Returns:
        SHA-256 in hex over the deterministic serialization of the graph and the recipes in their order.
    """
    digest = sha256()
    for part in (graph.SerializeToString(deterministic=True), json.dumps(recipes.to_json(), sort_keys=True).encode()):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
