"""An exported graph as bytes without its weights, for the cache and between processes."""

from __future__ import annotations

import json

import onnx
from torch import nn

from dni_deploy.utils.onnx_weights import fill_initializers, strip_initializer
from exporters.export_graph import ExportedGraph, collect_float_tensors

ENTRY_MAGIC = b"dni-deploy graph 2"
"""The first line of an entry; then come a line of JSON and the graph."""


def pack_graph(exported: ExportedGraph) -> bytes:
    """Packs a graph without its weights."""
    graph = onnx.ModelProto()
    graph.CopyFrom(exported.graph)
    for initializer in graph.graph.initializer:
        if initializer.name in exported.names:
            strip_initializer(initializer)
    about = json.dumps({"names": exported.names, "unused": exported.unused}).encode()
    return b"\n".join((ENTRY_MAGIC, about, graph.SerializeToString(deterministic=True)))


def unpack_graph(data: bytes, net: nn.Module) -> ExportedGraph | None:
    """Unpacks a graph and puts the network's weights in; None if they are not of this network."""
    head, _, body = data.partition(b"\n")
    if head != ENTRY_MAGIC:
        return None
    fields, _, stored = body.partition(b"\n")
    graph = onnx.ModelProto()
    try:
        about = json.loads(fields)
        graph.ParseFromString(stored)
        tensors, tied = collect_float_tensors(net)
        names = tuple(about["names"])
        fill_initializers(graph, names, lambda name: tensors[name].contiguous().numpy())
        return ExportedGraph(graph, names, tuple(about["unused"]), tied)
    except Exception:  # whole, yet not ours to read: protobuf's implementations differ in what they raise
        return None
