"""Where each number of each lowered weight lies in the optimized graph, found out by asking ONNX Runtime.

ONNX Runtime reorders, pads and renames weights when it optimizes. Instead of knowing its rules, this module lets it optimize a
graph whose weights hold their own *addresses*, and reads the addresses back from the result. Each element of each optimized
initializer then names the one element of the lowered weights that it is a copy of, or is padding. Two passes: which weight, and
which element of it. If anything else than copying and padding happened to a weight, an address comes back damaged and the graph
is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from dni_deploy.errors import EngineError
from engines import ort_session
from engines.lowering.recipes import Recipes
from engines.onnxruntime_cpu import runtime
from engines.onnxruntime_cpu.blocked_prelu import restore_prelu

FILL_MARK = 4096.5
"""Weight number k is filled with -(k + FILL_MARK): halves keep the marks apart from the elements' addresses, which are whole
numbers, and the sign shows what treats negative weights in another way, such as Abs or Relu."""

MAX_WEIGHT_ELEMENTS = 2**24 - 1
"""Per weight: float32 holds whole numbers exactly up to 2^24."""

SPAN_ALIGNMENT_FLOATS = 16
"""Each optimized weight begins on a 64-byte line."""


class InPlaceUnsupportedError(EngineError):
    """This graph cannot be refitted in place; str() says why, as a clause without a full stop."""

    kind = "InPlaceUnsupportedError"


@dataclass(frozen=True)
class WeightSpan:
    """One optimized initializer and where it lies in a weight buffer.

    Attributes:
        name: Name of the initializer.
        shape: Its shape.
        start: Position of its first float.
        stop: Position behind its last float.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Layout:
    """The optimized graph and the map of its weights.

    Attributes:
        optimized: The graph, its weights without data.
        spans: The optimized weights in buffer order.
        gather: int64 (P,): for each float of the buffer 1 + its index in the concatenated lowered weights, or 0 for padding.
        offsets: Where each lowered weight begins in that concatenation (without the 1).
    """

    optimized: onnx.ModelProto
    spans: tuple[WeightSpan, ...]
    gather: NDArray[np.int64]
    offsets: dict[str, int]

    @property
    def size(self) -> int:
        """Length of the weight buffer in floats, P."""
        return int(self.gather.size)

    def arrange_weights(self, values: dict[str, NDArray[np.float32]], out: NDArray[np.float32]) -> None:
        """Arranges one set of lowered weights as the optimized graph wants them.

        Args:
            values: float32 value of each lowered weight by name.
            out: float32 (P,), to fill.
        """
        flat = np.concatenate([np.zeros(1, np.float32), *(values[name].reshape(-1) for name in self.offsets)])
        np.take(flat, self.gather, out=out)

    def find_positions(self, name: str, size: int) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        """Finds where a lowered weight lies.

        Args:
            name: Name of the lowered weight.
            size: Its number of elements.

        Returns:
            Positions in the buffer, and the element of the weight at each, (K,) both.
        """
        first = self.offsets[name] + 1
        positions = np.flatnonzero((self.gather >= first) & (self.gather < first + size))
        return positions, self.gather[positions] - first

    def split_blocks(self) -> tuple[list[int], list[str]]:
        """Cuts the buffer where the lowered weight changes.

        Returns:
            Where each block begins, and the weight that it is a copy of. Padding belongs to the block before it; it is 0 in
            every member.
        """
        names = list(self.offsets)
        bounds = np.array([self.offsets[name] + 1 for name in names])
        starts: list[int] = []
        owners: list[str] = []
        for span in self.spans:
            gather = self.gather[span.start : span.stop]
            least = int((gather - 1).view(np.uint64).min()) + 1  # padding, which is 0, wraps round to the largest
            first, last = np.searchsorted(bounds, [least, int(gather.max())], "right") - 1
            starts.append(span.start)
            owners.append(names[first])
            if first != last:  # several weights in one: not seen so far, and the rule holds all the same
                positions = np.flatnonzero(gather)
                owner = np.searchsorted(bounds, gather[positions], "right") - 1
                owners[-1] = names[owner[0]]
                cuts = np.flatnonzero(np.diff(owner)) + 1
                starts += (span.start + positions[cuts]).tolist()
                owners += [names[index] for index in owner[cuts]]
        return starts, owners


def find_layout(lowered: onnx.ModelProto, recipes: Recipes) -> Layout:
    """Optimizes a lowered graph and finds its layout.

    Args:
        lowered: The lowered graph; it is not changed.
        recipes: Its weights.

    Returns:
        The layout.

    Raises:
        InPlaceUnsupportedError: ONNX Runtime did more with a weight than move it.
        EngineError: ONNX Runtime cannot open the graph.
    """
    names = list(recipes.linear)
    sizes = np.array([int(np.prod(recipes.linear[name].shape)) for name in names], np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    if sizes.max(initial=0) > MAX_WEIGHT_ELEMENTS:
        raise InPlaceUnsupportedError(f"weight {names[int(sizes.argmax())]!r} has more than {MAX_WEIGHT_ELEMENTS} elements")
    marks = _optimize_graph(lowered, recipes, lambda index, size: np.full(size, -(index + FILL_MARK), np.float32))
    places = _optimize_graph(lowered, recipes, lambda index, size: np.arange(1, size + 1, dtype=np.float32))
    if _describe_structure(marks) != _describe_structure(places):
        raise InPlaceUnsupportedError("ONNX Runtime optimizes this graph differently for different weights")

    spans, gathers, position = [], [], 0
    place_by_name = _read_float32_initializers(places)
    # Equal shapes side by side: what is scaled by a BatchNorm is then scaled in one pass (channel_scale.py).
    for name, mark in sorted(_read_float32_initializers(marks).items(), key=lambda weight: weight[1].shape):
        place = place_by_name[name]
        if np.array_equal(mark, place):
            continue  # a constant of the graph
        used = mark != 0
        which, element = np.where(used, -mark - np.float32(FILL_MARK), 0), np.where(used, place - 1, 0)
        are_whole = np.array_equal(which, np.floor(which)) and np.array_equal(element, np.floor(element))
        are_owners = are_whole and which.min() >= 0 and which.max() < len(names)
        owner = np.where(are_owners, which, 0).astype(np.int64)
        if not are_owners or element.min() < 0 or np.any(element >= sizes[owner]):
            raise InPlaceUnsupportedError(f"ONNX Runtime computes {name!r} from the weights instead of moving them")
        index = np.where(used, starts[owner] + element.astype(np.int64) + 1, 0)
        padding = -index.size % SPAN_ALIGNMENT_FLOATS
        gathers.append(np.concatenate([index.reshape(-1), np.zeros(padding, np.int64)]))
        spans.append(WeightSpan(name, mark.shape, position, position + index.size))
        position += index.size + padding
    gather = np.concatenate(gathers) if gathers else np.zeros(0, np.int64)
    seen = np.zeros(int(starts[-1]) + 1, np.bool_)
    seen[gather] = True
    missing = [
        name for name, start, size in zip(names, starts, sizes, strict=False) if not seen[start + 1 : start + size + 1].all()
    ]
    if missing:
        raise InPlaceUnsupportedError(f"ONNX Runtime leaves out {len(missing)} weights, first {missing[0]!r}")
    movable = {span.name for span in spans}
    for tensor in marks.graph.initializer:
        if tensor.name in movable:
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    restore_prelu(marks, movable, runtime.measure_block_size())
    return Layout(marks, tuple(spans), gather, dict(zip(names, starts[:-1].tolist(), strict=True)))


def _optimize_graph(
    lowered: onnx.ModelProto, recipes: Recipes, make_values: Callable[[int, int], NDArray[np.float32]]
) -> onnx.ModelProto:
    values = {
        name: make_values(index, int(np.prod(recipe.shape))).reshape(recipe.shape)
        for index, (name, recipe) in enumerate(recipes.linear.items())
    }
    return runtime.optimize_graph(ort_session.bind_initializers(lowered, values))


def _read_float32_initializers(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """Reads every float32 initializer by name."""
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }


def _describe_structure(model: onnx.ModelProto) -> tuple[list[bytes], list[tuple[str, int, tuple[int, ...]]]]:
    """Describes all but the values: nodes without names and order, which vary between runs, and initializers' shapes."""
    nodes = []
    for node in model.graph.node:
        unnamed = onnx.NodeProto()
        unnamed.CopyFrom(node)
        unnamed.ClearField("name")
        nodes.append(unnamed.SerializeToString(deterministic=True))
    return sorted(nodes), sorted((t.name, t.data_type, tuple(t.dims)) for t in model.graph.initializer)


CACHE_LINE_BYTES = 64
"""And of an AVX-512 register: loads across lines cost twice."""


def allocate_aligned(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Allocates zeros that begin on a cache line; every row does too, where the last dimension is a multiple of 16.

    Args:
        shape: Shape of the array.

    Returns:
        float32 of this shape, C order. The caller owns it.
    """
    byte_count = int(np.prod(shape)) * 4
    memory = np.zeros(byte_count + CACHE_LINE_BYTES, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE_BYTES
    return memory[start : start + byte_count].view(np.float32).reshape(shape)


class HostWeightBuffer:
    """The weights of one slot; it owns the memory.

    Attributes:
        flat: float32 (P,), in layout order.
        views: A view of `flat` for each optimized weight by name.
    """

    def __init__(self, layout: Layout) -> None:
        """Allocates zeros for a layout."""
        self.flat = allocate_aligned((layout.size,))
        self.views = {span.name: self.flat[span.start : span.stop].reshape(span.shape) for span in layout.spans}
