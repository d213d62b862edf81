"""Hand-made graphs with structures that the pico architectures lack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from dni_deploy.signature import Signature
from tests.engines.conftest import Case


class Hand:
    """A graph built node by node; weights are named, and drawn per member from the seed.

    x -> conv("a", "x", 16) -> ... -> case("last value").
    """

    def __init__(self, channels: int = 3) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.ranges: dict[str, tuple[float, float]] = {}
        self.constants: dict[str, NDArray[Any]] = {}
        self.width = {"x": channels}

    def weight(self, name: str, shape: tuple[int, ...], low: float, high: float) -> str:
        self.shapes[name], self.ranges[name] = shape, (low, high)
        return name

    def node(self, op: str, inputs: Sequence[str], channels: int | None = None, **attributes: Any) -> str:
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        self.width[name] = self.width[inputs[0]] if channels is None else channels
        return name

    def conv(
        self,
        x: str,
        out: int,
        *,
        weight: str = "",
        bias: bool = True,
        group: int = 1,
        kernel: int = 3,
        transposed: bool = False,
        padding: int | None = None,
    ) -> str:
        into = self.width[x]
        name = weight or f"conv{len(self.nodes)}"
        spread = math.sqrt(4.0 / (into // group * kernel**2))
        shape = (into, out // group, kernel, kernel) if transposed else (out, into // group, kernel, kernel)
        inputs = [x, self.weight(f"{name}.weight", shape, -spread, spread)]
        if bias:
            inputs.append(self.weight(f"{name}.bias", (out,), -0.3, 0.3))
        more: dict[str, Any] = {"strides": [2, 2]} if transposed else {}
        return self.node(
            "ConvTranspose" if transposed else "Conv", inputs, out, group=group, kernel_shape=[kernel] * 2,
            pads=[kernel // 2 if padding is None else padding] * 4, **more,
        )  # fmt: skip

    def batch_norm(self, x: str, *, name: str = "", affine: bool = True, epsilon: float = 1e-5) -> str:
        channels = self.width[x]
        name = name or f"bn{len(self.nodes)}"
        if affine:
            scale = [self.weight(f"{name}.weight", (channels,), 0.5, 1.5), self.weight(f"{name}.bias", (channels,), -0.5, 0.5)]
        else:
            scale = [
                self.constant("ones", np.ones(channels, np.float32)),
                self.constant("zeros", np.zeros(channels, np.float32)),
            ]
        statistics = [
            self.weight(f"{name}.running_mean", (channels,), -0.5, 0.5),
            self.weight(f"{name}.running_var", (channels,), 0.1, 2.0),
        ]
        return self.node("BatchNormalization", [x, *scale, *statistics], epsilon=epsilon)

    def prelu(self, x: str, slopes: int = 0, low: float = 0.05, high: float = 0.4, name: str = "") -> str:
        name = name or f"prelu{len(self.nodes)}"
        size = slopes or self.width[x]
        slope = self.weight(f"{name}.weight", (size,), low, high)
        shape = self.constant(f"{size} slopes", np.array([size, 1, 1], np.int64))
        return self.node("PRelu", [x, self.node("Reshape", [slope, shape], size)], self.width[x])

    def times(self, x: str, factor: float, shape: tuple[int, ...] = ()) -> str:
        return self.node("Mul", [x, self.constant(f"factor {factor}{len(shape)}", np.full(shape, factor, np.float32))])

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants[name] = value
        return name

    def case(self, y: str, *, rank: int = 4, scale: int = 1, name: str = "hand") -> Case:
        """Returns the graph from x to y, of dynamic height and width, and three members."""
        sides: list[Any] = ["h", "w"][: rank - 2]
        out: list[Any] = ["h2", "w2"][: rank - 2]
        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes, name,
            [info("x", onnx.TensorProto.FLOAT, ["n", self.width["x"], *sides])],
            [info(y, onnx.TensorProto.FLOAT, ["n", self.width[y], *out])],
            [numpy_helper.from_array(value, key) for key, value in self.constants.items()]
            + [onnx.TensorProto(name=key, dims=shape, data_type=onnx.TensorProto.FLOAT) for key, shape in self.shapes.items()],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        members = [self._member(seed) for seed in range(3)]
        signature = Signature(input_channels=self.width["x"], output_channels=self.width[y], scale=scale)
        shapes: Any = ((1, self.width["x"], 16, 12), (2, self.width["x"], 9, 21)) if rank == 4 else ((5, self.width["x"]),) * 2
        return Case(name, model, tuple(self.shapes), members, signature, shapes)

    def _member(self, seed: int) -> dict[str, NDArray[Any]]:
        random = np.random.default_rng(seed)
        return {key: random.uniform(*self.ranges[key], shape).astype(np.float32) for key, shape in sorted(self.shapes.items())}


def conv_bn() -> Case:
    hand = Hand()
    return hand.case(hand.conv(hand.batch_norm(hand.conv("x", 16)), 3))


def conv_without_bias_bn() -> Case:
    hand = Hand()
    return hand.case(hand.conv(hand.node("Relu", [hand.batch_norm(hand.conv("x", 24, bias=False), epsilon=1e-3)]), 3))


def transposed_bn() -> Case:
    hand = Hand()
    return hand.case(hand.batch_norm(hand.conv(hand.conv("x", 8), 6, transposed=True, kernel=4)))


def grouped_transposed_bn() -> Case:
    hand = Hand(4)
    return hand.case(hand.batch_norm(hand.conv("x", 8, group=2, transposed=True, kernel=4)))


def bn_first() -> Case:
    hand = Hand()
    return hand.case(hand.conv(hand.batch_norm("x"), 8))


def bn_after_add() -> Case:
    hand = Hand()
    first = hand.conv("x", 16)
    return hand.case(hand.conv(hand.batch_norm(hand.node("Add", [hand.conv(first, 16), first])), 3))


def bn_after_a_conv_that_is_read_twice() -> Case:
    hand = Hand()
    first = hand.conv("x", 16)
    return hand.case(hand.node("Add", [hand.batch_norm(first), first]))


def bn_after_a_shared_conv() -> Case:
    """One weight at two nodes, each followed by a BatchNorm."""
    hand = Hand()
    first, second = hand.conv("x", 3, weight="shared"), hand.conv(hand.node("Relu", ["x"]), 3, weight="shared")
    return hand.case(hand.node("Add", [hand.batch_norm(first), hand.batch_norm(second)]))


def shared_bn() -> Case:
    """One BatchNorm after two convolutions, whose biases differ."""
    hand = Hand()
    first, second = hand.batch_norm(hand.conv("x", 16), name="bn"), hand.batch_norm(hand.conv("x", 16), name="bn")
    return hand.case(hand.node("Mul", [first, second]))


def shared_bn_without_conv() -> Case:
    hand = Hand()
    first = hand.batch_norm("x", name="bn")
    return hand.case(hand.conv(hand.batch_norm(hand.node("Relu", [first]), name="bn"), 8))


def bn_after_grouped_conv() -> Case:
    hand = Hand()
    return hand.case(hand.conv(hand.batch_norm(hand.conv(hand.conv("x", 16), 32, group=4)), 3))


def bn_after_depthwise_conv() -> Case:
    hand = Hand()
    return hand.case(hand.conv(hand.batch_norm(hand.conv(hand.conv("x", 16), 16, group=16)), 3))


def bn_after_bn() -> Case:
    hand = Hand()
    return hand.case(hand.batch_norm(hand.batch_norm(hand.conv("x", 16))))


def bn_without_affine() -> Case:
    hand = Hand()
    return hand.case(hand.batch_norm(hand.conv("x", 16), affine=False))


def bn_then_mul() -> Case:
    hand = Hand()
    return hand.case(hand.times(hand.batch_norm(hand.conv("x", 16)), 0.2))


def prelu_per_channel() -> Case:
    hand = Hand()
    return hand.case(hand.conv(hand.prelu(hand.conv("x", 32)), 3))


def prelu_single_slope() -> Case:
    hand = Hand()
    return hand.case(hand.conv(hand.prelu(hand.conv("x", 16), 1), 3))


def prelu_wild_slopes() -> Case:
    """Above 1 and below 0."""
    hand = Hand()
    return hand.case(hand.conv(hand.prelu(hand.conv("x", 16), low=-2.0, high=3.0), 3))


def prelu_odd_channels() -> Case:
    hand = Hand()
    return hand.case(hand.prelu(hand.conv("x", 7)))


def shared_single_prelu() -> Case:
    """One slope for activations of 16 and of 32 channels."""
    hand = Hand()
    first = hand.prelu(hand.conv("x", 16), 1, name="prelu")
    return hand.case(hand.conv(hand.prelu(hand.conv(first, 32), 1, name="prelu"), 3))


def mul_after_conv() -> Case:
    hand = Hand()
    return hand.case(hand.times(hand.times(hand.conv("x", 16), 0.2), -3.0, (1, 1, 1, 1)))


def mul_after_add() -> Case:
    hand = Hand()
    first = hand.conv("x", 16)
    return hand.case(hand.node("Add", [first, hand.times(hand.node("Add", [hand.conv(first, 16), first]), 0.2)]))


def mul_of_odd_channels() -> Case:
    hand = Hand()
    return hand.case(hand.times(hand.node("Relu", [hand.conv("x", 7)]), 0.2))


def mul_after_a_shared_conv() -> Case:
    """The factor must not be folded into either of the two."""
    hand = Hand()
    first, second = hand.conv("x", 3, weight="shared"), hand.conv(hand.node("Relu", ["x"]), 3, weight="shared")
    return hand.case(hand.node("Add", [hand.times(first, 0.5), second]))


def mul_of_the_output_and_more() -> Case:
    """The output of the scaled convolution is also read elsewhere."""
    hand = Hand()
    first = hand.conv("x", 16)
    return hand.case(hand.node("Add", [first, hand.times(first, 0.25)]))


def linear_bn() -> Case:
    """Rank 2: a Gemm and a BatchNorm over features."""
    hand = Hand(6)
    weight, bias = hand.weight("fc.weight", (10, 6), -0.5, 0.5), hand.weight("fc.bias", (10,), -0.5, 0.5)
    return hand.case(hand.batch_norm(hand.node("Gemm", ["x", weight, bias], 10, transB=1)), rank=2)


def upsampled_conv() -> Case:
    """Enlarged twice by 2, each time reflected and convolved; the scalar goes into the first of these convolutions."""
    hand = Hand()
    y = hand.conv("x", 16)
    scales = hand.constant("scales", np.array([1, 1, 2, 2], np.float32))
    pads = hand.constant("pads", np.array([0, 0, 1, 1] * 2, np.int64))
    for outputs in (16, 6):
        y = hand.node(
            "Resize", [y, "", scales], mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric"
        )
        y = hand.conv(hand.node("Pad", [y, pads], mode="reflect"), outputs, padding=0)
        y = hand.times(y, 0.5) if outputs == 16 else y
    return hand.case(y, scale=4)


def tied_convs() -> Case:
    hand = Hand()
    return hand.case(hand.conv(hand.conv("x", 3, weight="tied"), 3, weight="tied"))


HAND = {
    make.__name__: make
    for make in (
        conv_bn, conv_without_bias_bn, transposed_bn, grouped_transposed_bn, bn_first, bn_after_add,
        bn_after_a_conv_that_is_read_twice, bn_after_a_shared_conv, shared_bn, shared_bn_without_conv, bn_after_grouped_conv,
        bn_after_depthwise_conv, bn_after_bn, bn_without_affine, bn_then_mul, prelu_per_channel, prelu_single_slope,
        prelu_wild_slopes, prelu_odd_channels, shared_single_prelu, mul_after_conv, mul_after_add, mul_of_odd_channels,
        mul_after_a_shared_conv, mul_of_the_output_and_more, linear_bn, tied_convs,
        upsampled_conv,
    )
}  # fmt: skip


def weight_norm() -> Case:
    """A convolution whose weight is the product of two: blending the product is not the product of the blends."""
    hand = Hand()
    direction, length = hand.weight("v", (8, 3, 3, 3), -0.4, 0.4), hand.weight("g", (8, 1, 1, 1), 0.5, 1.5)
    product = hand.node("Mul", [direction, length], 8)
    return hand.case(hand.node("Conv", ["x", product], 8, kernel_shape=[3, 3], pads=[1] * 4), name="weight_norm")


def clamped_weight(op: str) -> Case:
    """A convolution whose weight goes through Abs or Relu, which move positive numbers and change negative ones."""
    hand = Hand()
    weight = hand.node(op, [hand.weight("w", (8, 3, 3, 3), -0.4, 0.4)], 8)
    return hand.case(hand.node("Conv", ["x", weight], 8, kernel_shape=[3, 3], pads=[1] * 4), name="clamped")


TAGS = 64


def tags() -> Case:
    """64 convolutions of one weight each, side by side: for x = 1 the output is the 64 weights. Member k has k everywhere."""
    hand = Hand(1)
    outputs = [hand.conv("x", 1, weight=f"layer{number}", kernel=1, bias=False) for number in range(TAGS)]
    case = hand.case(hand.node("Concat", outputs, TAGS, axis=1), name="tags")
    for number, member in enumerate(case.members):
        for tensor in member.values():
            tensor[...] = number
    return case


def bn_whose_mean_is_read_twice() -> Case:
    """Folding needs the mean, but another node reads it unchanged."""
    hand = Hand()
    normed = hand.batch_norm(hand.conv("x", 8), name="bn")
    shape = hand.constant("along", np.array([1, 8, 1, 1], np.int64))
    return hand.case(hand.conv(hand.node("Add", [normed, hand.node("Reshape", ["bn.running_mean", shape], 8)], 8), 3))


def bn_with_constant_scale() -> Case:
    """Gamma and beta are constants of the graph: the BatchNorm is not folded and stays as arithmetic."""
    hand = Hand()
    first = hand.conv("x", 8)
    scale = [
        hand.constant("gamma", np.linspace(0.5, 1.5, 8, dtype=np.float32)),
        hand.constant("beta", np.full(8, 0.1, np.float32)),
    ]
    statistics = [hand.weight("bn.running_mean", (8,), -0.5, 0.5), hand.weight("bn.running_var", (8,), 0.1, 2.0)]
    return hand.case(hand.conv(hand.node("BatchNormalization", [first, *scale, *statistics], epsilon=1e-5), 3))


RAW = {make.__name__: make for make in (bn_whose_mean_is_read_twice, bn_with_constant_scale)}
"""Graphs that keep BatchNorm statistics as weights; all others in `HAND` fold them."""
