"""PyTorch on the GPU, tuned for speed, as a DeviceEngine.

Its weights are views of one flat tensor that is blended in place, for two members by a single torch.lerp. They are channels-last
if eager frames are faster that way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dni_deploy.blending.blend import blend_float64
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError, MismatchError
from dni_deploy.network_controls import drop_control_tensors
from engines.frame_conversion import HostFrameEngine
from exporters.architectures.registry import find_architecture

TORCH_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16}
TENSOR_ALIGNMENT_BYTES = 256
"""Alignment of each tensor, equal to that of cudaMalloc."""
WARM_UP_FRAMES = 4
"""Warm-up frames: torch.compile compiles in the first and captures in the second."""


class TorchPeer(HostFrameEngine):
    """A DeviceEngine (see engines/interface.py) of one slot, float32 in and out.

    The mode is "eager", "graph" (the eager network as a CUDA graph), "reduce-overhead" or "max-autotune" (torch.compile). TF32
    is on or off in the whole process, by the newest peer's precision; cuDNN may choose by trial.
    """

    slots = 1

    def __init__(self, bundle: Bundle, precision: str, mode: str) -> None:
        super().__init__()
        choose_arithmetic(precision)
        self.name = f"torch-{mode}"
        self.update_path = "the weights are views of one flat tensor that is blended in place"
        self._bundle, self._mode, self._dtype = bundle, mode, TORCH_DTYPES[precision]
        self._stream = torch.cuda.Stream()
        self._shape: tuple[int, ...] = ()
        self._frame: Callable[[], Tensor] | None = None
        self._weights: FlatWeights | None = None
        self._x = self._y = self._staged = self._fetched = torch.empty(0)
        self._coefficients = np.full(len(bundle.members), 1 / len(bundle.members))

    def stream_handle(self, slot: int) -> int:
        return int(self._stream.cuda_stream)

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        """Queues the blend; before the first input the shape is unknown, and the blend is made with that input."""
        self._coefficients = coefficients
        if self._weights is not None:
            with torch.cuda.stream(self._stream):
                self._weights.blend(coefficients)

    def synchronize(self, slot: int) -> None:
        self._stream.synchronize()

    @torch.no_grad()
    def upload(self, slot: int, x: NDArray[np.float32]) -> None:
        if x.shape != self._shape:
            self._open(x)
        self._stream.synchronize()  # the last upload may still read the staging memory
        self._staged.copy_(torch.from_numpy(x))
        with torch.cuda.stream(self._stream):
            self._x.copy_(self._staged, non_blocking=True)

    @torch.no_grad()
    def enqueue(self, slot: int) -> None:
        if self._frame is None:
            raise EngineError("There is no input yet.")
        with torch.cuda.stream(self._stream):
            self._y = self._frame()

    def download(self, slot: int) -> NDArray[np.float32]:
        if self._fetched.shape != self._y.shape:
            self._fetched = torch.empty(self._y.shape, pin_memory=True)
        with torch.cuda.stream(self._stream):
            self._fetched.copy_(self._y, non_blocking=True)
        self._stream.synchronize()
        output: NDArray[np.float32] = np.array(self._fetched.numpy())
        return output

    def infer(self, slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        self.upload(slot, x)
        self.enqueue(slot)
        return self.download(slot)

    def close(self) -> None:
        self._frame = self._weights = None
        self._x = self._y = self._staged = self._fetched = torch.empty(0)
        self._shape = ()
        torch.cuda.empty_cache()

    def _open(self, x: NDArray[np.float32]) -> None:
        """Builds the network for this shape: both memory formats are tried; the faster one is captured or compiled."""
        self._frame = self._weights = None
        self._shape = x.shape
        self._x = torch.from_numpy(x).cuda()
        self._staged = torch.empty(x.shape, pin_memory=True)
        net, self._weights = min((self._network(last, x) for last in (False, True)), key=lambda it: it[0])[1:]
        self._weights.blend(self._coefficients)
        torch.cuda.synchronize()
        with torch.cuda.stream(self._stream):
            self._frame = self._make_frame_call(net)
        torch.cuda.synchronize()

    def _network(self, channels_last: bool, x: NDArray[np.float32]) -> tuple[float, nn.Module, FlatWeights]:
        """Returns the seconds of an eager frame, the network and its weights."""
        tensors = [self._bundle.read_weights(member) for member in self._bundle.members]
        net = Float32Ends(build_network(self._bundle), self._dtype, channels_last).cuda()
        weights = FlatWeights(net.net, tensors, self._dtype, channels_last)
        weights.blend(self._coefficients)
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        for _ in range(2):
            net(self._x)
        first.record()
        for _ in range(3):
            net(self._x)
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 3e3, net, weights

    def _make_frame_call(self, net: nn.Module) -> Callable[[], Tensor]:
        """Returns a warmed-up call that runs a frame on the current stream."""
        run = (
            _make_compiled_call(net, self._x, self._mode)
            if self._mode not in ("eager", "graph")
            else _make_eager_call(net, self._x)
        )
        for _ in range(WARM_UP_FRAMES):
            run()
        return _record_graph(run, self._stream) if self._mode == "graph" else run


def _make_eager_call(net: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    def run() -> Tensor:
        y: Tensor = net(x)
        return y

    return run


def _make_compiled_call(net: nn.Module, x: Tensor, mode: str) -> Callable[[], Tensor]:
    # After 8 networks of one class Dynamo would silently run the next one eagerly.
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 10_000
    torch._dynamo.mark_static_address(x)  # or the input is copied once more per frame
    compiled = torch.compile(net, mode=mode, dynamic=False, fullgraph=True)

    def run() -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        y: Tensor = compiled(x)
        return y

    return run


def _record_graph(run: Callable[[], Tensor], stream: torch.cuda.Stream) -> Callable[[], Tensor]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        y = run()

    def replay() -> Tensor:
        graph.replay()
        return y

    return replay


class Float32Ends(nn.Module):
    """Wraps a network of any dtype with a float32 input and output, like the TensorRT plans."""

    def __init__(self, net: nn.Module, dtype: torch.dtype, channels_last: bool) -> None:
        super().__init__()
        self.net = net.to(dtype).eval()
        self.dtype = dtype
        self.format = torch.channels_last if channels_last else torch.contiguous_format

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x.to(self.dtype, memory_format=self.format)).float()
        return y


class FlatWeights:
    """The network's weights as views of `buffer`, and the members laid out like it, (N, P), on its device in its dtype."""

    def __init__(self, net: nn.Module, members: list[dict[str, NDArray[Any]]], dtype: torch.dtype, channels_last: bool) -> None:
        weights = {name: tensor for name, tensor in net.state_dict(keep_vars=True).items() if name in members[0]}
        if set(weights) != set(members[0]):
            raise MismatchError("The architecture does not have the bundle's weights.")
        step = TENSOR_ALIGNMENT_BYTES // torch.empty(0, dtype=dtype).element_size()
        offsets, total = {}, 0
        for name, weight in weights.items():
            offsets[name] = total
            total += -(-weight.numel() // step) * step
        device = next(iter(weights.values())).device
        self.buffer = torch.zeros(total, dtype=dtype, device=device)
        self.members = torch.zeros((len(members), total), dtype=dtype, device=device)
        for name, weight in weights.items():
            shape = tuple(weight.shape)
            for row, member in zip(self.members, members, strict=True):
                _view(row, offsets[name], shape, channels_last).copy_(torch.from_numpy(np.array(member[name], np.float32)))
            weight.data = _view(self.buffer, offsets[name], shape, channels_last)

    @torch.no_grad()
    def blend(self, coefficients: NDArray[np.float64]) -> None:
        """Queues the blend on the current stream; one-hot coefficients are a copy."""
        used = np.flatnonzero(coefficients)
        if len(used) == 1 and coefficients[used[0]] == 1.0:
            self.buffer.copy_(self.members[used[0]])
        elif len(self.members) == 2:
            torch.lerp(self.members[1], self.members[0], float(coefficients[0]), out=self.buffer)
        else:
            torch.mul(self.members[0], float(coefficients[0]), out=self.buffer)
            for row, coefficient in zip(self.members[1:], coefficients[1:], strict=True):
                self.buffer.add_(row, alpha=float(coefficient))


def _view(flat: Tensor, offset: int, shape: tuple[int, ...], channels_last: bool) -> Tensor:
    part = flat[offset : offset + int(np.prod(shape))]
    if channels_last and len(shape) == 4:
        outputs, inputs, height, width = shape
        return part.view(outputs, height, width, inputs).permute(0, 3, 1, 2)
    return part.view(shape)


def choose_arithmetic(precision: str) -> None:
    """Enables TF32 in this process for "tf32" and disables it for all else, and lets cuDNN benchmark its algorithms."""
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True


def build_network(bundle: Bundle) -> nn.Module:
    """Builds the bundle's network with the first member's weights."""
    tensors = bundle.read_tensors(bundle.members[0])
    own = drop_control_tensors(tensors, bundle.signature.controls)
    return find_architecture(bundle.architecture, own).build(own, bundle.signature.controls).eval()


def compute_expected_outputs(
    bundle: Bundle, x: NDArray[np.float32], alphas: dict[str, tuple[float, ...]]
) -> dict[str, NDArray[np.float32]]:
    """Computes "x" and the float64 network's output on the GPU per alpha, in float32, or raises torch.cuda.OutOfMemoryError."""
    members = [bundle.read_weights(member) for member in bundle.members]
    net = build_network(bundle).double().cuda()
    outputs = {"x": x}
    with torch.inference_mode():
        x_cuda = torch.from_numpy(x).cuda().double()
        for name, coefficients in alphas.items():
            blended = blend_float64(members, np.array(coefficients))
            net.load_state_dict({key: torch.from_numpy(value) for key, value in blended.items()}, strict=False)
            outputs[name] = net(x_cuda).float().cpu().numpy()
    del net, x_cuda
    torch.cuda.empty_cache()
    return outputs
