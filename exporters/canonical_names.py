"""Names for the values and nodes of a graph that depend on the graph alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx


def canonicalize_names(graph: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
    """Copies a graph and renames its nodes, values and constants.

    Nodes become `Conv_3`, their outputs `Conv_3:0`, constants `constant_5`. Metadata of nodes is removed: it holds paths of
    source files and whole stack traces of the machine that exported.

    Args:
        graph: Not changed.
        inputs: Names of the graph's inputs, in order.
        outputs: Names of the graph's outputs, in order.
    """
    renamed = onnx.ModelProto()
    renamed.CopyFrom(graph)
    del renamed.metadata_props[:]
    _Renamer(inputs, outputs).rename_graph(renamed.graph, {}, outermost=True)
    return renamed


def find_used_values(graph: onnx.ModelProto) -> set[str]:
    """Returns the names of all values on which an output depends, the outputs among them."""
    used = {value.name for value in graph.graph.output}
    for node in reversed(graph.graph.node):
        if used.intersection(node.output):
            used.update(_iterate_reads(node))
    return used


def iterate_subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yields the bodies of an If, Loop or Scan."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _iterate_reads(node: onnx.NodeProto) -> Iterator[str]:
    yield from filter(None, node.input)
    for body in iterate_subgraphs(node):
        yield from (value.name for value in body.output)
        for inner in body.node:
            yield from _iterate_reads(inner)


class _Renamer:
    def __init__(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self.inputs, self.outputs = inputs, outputs
        self.used_names = {*inputs, *outputs}
        self.next_number = 0

    def rename_graph(self, graph: onnx.GraphProto, outer: dict[str, str], *, outermost: bool = False) -> None:
        """Rename in place; `outer` maps the old names that a body can see to the new ones."""
        names = dict(outer)
        graph.name, graph.doc_string = "graph", ""
        del graph.metadata_props[:], graph.value_info[:]
        for position, value in enumerate(graph.input):
            names[value.name] = self.inputs[position] if outermost else self.make_unique_name("input")
        for constant in graph.initializer:
            names[constant.name] = self.make_unique_name("constant")
            constant.doc_string = ""
            del constant.metadata_props[:]
        if outermost:
            names.update((value.name, name) for value, name in zip(graph.output, self.outputs, strict=True))
        for node in graph.node:
            node.name = self.make_unique_name(node.op_type)
            node.doc_string = ""
            del node.metadata_props[:]
            for body in iterate_subgraphs(node):
                self.rename_graph(body, names)
            node.input[:] = [names[name] if name else "" for name in node.input]
            for position, name in enumerate(node.output):
                if name and not (outermost and name in names):  # an output of the graph has its name already
                    names[name] = self.make_unique_name(f"{node.name}:{position}", add_number=False)
            node.output[:] = [names[name] if name else "" for name in node.output]
        for value in (*graph.input, *graph.output, *graph.initializer):
            value.name = names[value.name]
        for value in (*graph.input, *graph.output):
            value.doc_string = ""
            del value.metadata_props[:]

    def make_unique_name(self, name: str, *, add_number: bool = True) -> str:
        """The name, numbered, and lengthened in the unlikely case that a weight is called so."""
        if add_number:
            name = f"{name}_{self.next_number}"
            self.next_number += 1
        while name in self.used_names:
            name += "_"
        self.used_names.add(name)
        return name
