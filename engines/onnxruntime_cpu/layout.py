"""Where each number of each lowered weight lies in the optimized graph, found out by asking ONNX Runtime.

ONNX Runtime reorders, pads and renames weights when it optimizes. Instead of knowing its rules, this module lets it optimize a
graph whose weights hold their own *addresses*, and reads the addresses back from the result. Each element of each optimized
initializer then names the one element of the lowered weights that it is a copy of, or is padding. If anything else than copying
and padding happened to a weight, its addresses are damaged or missing and the graph is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray

from dni_deploy.errors import EngineError
from dni_deploy.utils.onnx_weights import fill_initializer
from engines.lowering.recipes import Recipes
from engines.onnxruntime_cpu import runtime
from engines.onnxruntime_cpu.blocked_depth_to_space import block_depth_to_space
from engines.onnxruntime_cpu.blocked_prelu import restore_prelu

ADDRESS_BASE = 0x80800000
"""Address a of an element is the float32 whose bits are ADDRESS_BASE + a, a from 1: negative numbers from just below the
smallest normal one on. No optimizer takes them for the 0 and 1 that it simplifies by, and their sign shows what treats negative
weights in another way, such as Abs or Relu. Copies keep every bit."""

MAX_WEIGHT_ELEMENTS = 2**29
"""Of all weights together, 2 GiB: addresses are closer to 0 than -1e-18 then, where no constant of a network lies."""

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
        gather: int32 (P,): for each float of the buffer 1 + its index in the concatenated lowered weights, or 0 for padding.
        offsets: Where each lowered weight begins in that concatenation (without the 1).
    """

    optimized: onnx.ModelProto
    spans: tuple[WeightSpan, ...]
    gather: NDArray[np.int32]
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
        # One by one: NumPy converts the indices to int64, and where it checks them it copies the result.
        for span in self.spans:
            np.take(flat, self.gather[span.start : span.stop], out=out[span.start : span.stop], mode="clip")

    def find_positions(self, name: str, size: int) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
        """Finds where a lowered weight lies.

        Args:
            name: Name of the lowered weight.
            size: Its number of elements.

        Returns:
            Positions in the buffer, and the element of the weight at each, (K,) both.
        """
        first = self.offsets[name] + 1
        least, greatest = self._span_ranges
        parts = []
        for index in np.flatnonzero((least < first + size) & (greatest >= first)):
            span = self.spans[index]
            gather = self.gather[span.start : span.stop]
            parts.append(np.flatnonzero((gather >= first) & (gather < first + size)) + span.start)
        positions = np.concatenate(parts)
        return positions, self.gather[positions] - np.int32(first)

    @cached_property
    def _span_ranges(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The least and the greatest address in each span; padding, which is 0, is left out of the first."""
        gathers = [self.gather[span.start : span.stop] for span in self.spans]
        least = [gather[gather > 0].min(initial=np.iinfo(np.int32).max) for gather in gathers]
        return np.array(least, np.int64), np.array([gather.max(initial=0) for gather in gathers], np.int64)

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
        for span, *ends in zip(self.spans, *self._span_ranges, strict=True):
            first, last = np.searchsorted(bounds, ends, "right") - 1
            starts.append(span.start)
            owners.append(names[first])
            if first != last:  # several weights in one: not seen so far, and the rule holds all the same
                gather = self.gather[span.start : span.stop]
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
    sizes = [math.prod(recipe.shape) for recipe in recipes.linear.values()]
    starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).tolist()
    if starts[-1] > MAX_WEIGHT_ELEMENTS:
        raise InPlaceUnsupportedError(f"the weights have more than {MAX_WEIGHT_ELEMENTS} elements")
    addresses = np.arange(ADDRESS_BASE + 1, ADDRESS_BASE + 1 + starts[-1], dtype=np.uint32).view(np.float32)
    weights = {
        name: addresses[start:stop].reshape(recipe.shape)
        for (name, recipe), start, stop in zip(recipes.linear.items(), starts, starts[1:], strict=False)
    }
    with runtime.optimize_with_weights(lowered, weights) as (optimized, values):
        del addresses, weights
        spans, gather = _read_gather(values, starts[-1])
        movable = {span.name for span in spans}
        for tensor in optimized.graph.initializer:
            if tensor.name in values and tensor.name not in movable:
                fill_initializer(tensor, values[tensor.name])
    seen = np.zeros(starts[-1] + 1, np.bool_)
    seen[gather] = True
    missing = [
        name for name, start, stop in zip(names, starts, starts[1:], strict=False) if not seen[start + 1 : stop + 1].all()
    ]
    if missing:
        raise InPlaceUnsupportedError(
            f"ONNX Runtime computes with or leaves out {len(missing)} weights instead of moving them, first {missing[0]!r}"
        )
    restore_prelu(optimized, movable, runtime.measure_block_size())
    block_depth_to_space(optimized, runtime.measure_block_size())
    for number, node in enumerate(optimized.graph.node):
        node.name = f"{node.op_type}_{number}"  # ONNX Runtime numbers some in an order that changes from run to run
    return Layout(optimized, spans, gather, dict(zip(names, starts, strict=False)))


def _read_gather(values: Mapping[str, NDArray[np.float32]], count: int) -> tuple[tuple[WeightSpan, ...], NDArray[np.int32]]:
    """Reads the spans and the gather map of a layout out of optimized initializers that hold `count` addresses."""
    gather = np.zeros(
        sum(-(-value.size // SPAN_ALIGNMENT_FLOATS) for value in values.values()) * SPAN_ALIGNMENT_FLOATS, np.int32
    )
    spans, position = [], 0
    # Equal shapes side by side: what is scaled by a BatchNorm is then scaled in one pass (channel_scale.py).
    for name, value in sorted(values.items(), key=lambda weight: weight[1].shape):
        addresses = _read_addresses(name, value, count)
        if addresses is None:
            continue  # a constant of the graph
        spans.append(WeightSpan(name, value.shape, position, position + value.size))
        gather[position : position + value.size] = addresses
        position += -(-value.size // SPAN_ALIGNMENT_FLOATS) * SPAN_ALIGNMENT_FLOATS
    return tuple(spans), gather[:position]


def _read_addresses(name: str, value: NDArray[np.float32], count: int) -> NDArray[np.int32] | None:
    """Reads the addresses in an optimized initializer: flat, 0 for padding; None where there is none, as in a constant."""
    bits = value.reshape(-1).view(np.uint32)
    is_padding = bits == 0
    addresses: NDArray[np.uint32] = np.where(is_padding, np.uint32(0), bits - np.uint32(ADDRESS_BASE))
    is_address = (addresses - np.uint32(1)) < count  # padding wraps round to the largest
    if not is_address.any():
        return None
    if not (is_address | is_padding).all():
        raise InPlaceUnsupportedError(f"ONNX Runtime computes {name!r} from the weights instead of moving them")
    return addresses.view(np.int32)


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
