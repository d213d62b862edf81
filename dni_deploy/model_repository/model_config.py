"""The config.pbtxt of a bundle as a model of Triton Inference Server, and what is read of it again when the model is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dni_deploy._version import __version__
from dni_deploy.errors import MismatchError, UsageError
from dni_deploy.imaging.frames import check_signature
from dni_deploy.network_controls import ControlValues, check_values, parse_values
from dni_deploy.session.options import SessionOptions
from dni_deploy.signature import Signature

CONFIG_HEADER = "# Written by dni-deploy triton"
"""First line of every config.pbtxt, by which a model of ours is known."""

CPU_ENGINE = "onnxruntime"

CONTROL_INPUT_PREFIX = "control_"

INSTANCE_KINDS = {"gpu": "KIND_GPU", "cpu": "KIND_CPU", None: "KIND_AUTO"}

MAX_INSTANCES = 64
MAX_QUEUE_REQUESTS = 100_000
MIN_TILE_PX = 16


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How Triton runs a bundle.

    Attributes:
        device: "gpu" or "cpu"; None leaves it to Triton: every GPU where there is one.
        instances: Number of sessions, each in a process of its own; on GPUs, for each of them.
        max_queue: Largest number of requests that wait; more are refused with HTTP 503. 0: no limit. A limit costs throughput:
            Triton 2.51 then answers several times fewer requests.
        tile: Side of the tiles, in input pixels, in which larger images are rendered; None: whole images.
        raw: Whether input and output are the network's own float tensors, (N, C, H, W), instead of images.
        engine: As in SessionOptions; "auto" is ONNX Runtime on the CPU, and the best one on a GPU.
        precision: As in SessionOptions.
        extrapolate: As in SessionOptions.
        threads: Threads of each instance; 0 leaves the number to the engine.
        controls: Values of what the network takes beside the image, for requests that bring none.

    Raises:
        UsageError: An unknown name, a number that is out of range, or options that exclude each other.
    """

    device: str | None = None
    instances: int = 1
    max_queue: int = 0
    tile: int | None = None
    raw: bool = False
    engine: str = "auto"
    precision: str | None = None
    extrapolate: bool = False
    threads: int = 0
    controls: ControlValues = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.device not in INSTANCE_KINDS:
            raise UsageError(f"The device is gpu or cpu; got {self.device!r}.")
        if not 1 <= self.instances <= MAX_INSTANCES or not 0 <= self.max_queue <= MAX_QUEUE_REQUESTS:
            raise UsageError(
                f"There are 1 to {MAX_INSTANCES} instances, and a queue holds 0 to {MAX_QUEUE_REQUESTS} requests; got "
                f"{self.instances} and {self.max_queue}."
            )
        if self.engine != "auto" and self.device == ("gpu" if self.engine == CPU_ENGINE else "cpu"):
            raise UsageError(f"The engine {self.engine} does not run on a {self.device.upper()}; leave out one of the two.")
        if self.tile is not None and self.tile < MIN_TILE_PX:
            raise UsageError(f"A tile has at least {MIN_TILE_PX} pixels a side; got {self.tile}.")
        if self.device == "cpu" and self.precision is not None:
            raise UsageError("A CPU computes in fp32; leave out the precision, or the device.")
        if self.raw and self.tile is not None:
            raise UsageError("Tiles are of images; leave out the tile size, or give images instead of raw tensors.")
        _ = self.make_session_options("CPU", 0)  # validates the fields that a session takes

    def make_session_options(self, kind: str, device: int) -> SessionOptions:
        """Makes the options with which an instance opens its session.

        Args:
            kind: "CPU" or "GPU", on which Triton has put the instance.
            device: Number of the GPU.
        """
        is_gpu = kind == "GPU"
        engine = self.engine if self.engine != "auto" or is_gpu else CPU_ENGINE
        return SessionOptions(
            engine=engine,
            precision=self.precision,
            extrapolate=self.extrapolate,
            threads=self.threads,
            device=device if is_gpu else 0,
            controls=self.controls,
        )

    def to_parameters(self) -> dict[str, str]:
        """Returns what an instance has to know, as the parameters of a config.pbtxt."""
        parameters = {"engine": self.engine, "threads": str(self.threads)}
        if self.precision is not None:
            parameters["precision"] = self.precision
        if self.tile is not None:
            parameters["tile"] = str(self.tile)
        parameters |= {name: "true" for name in ("raw", "extrapolate") if getattr(self, name)}
        if self.controls:
            parameters["controls"] = ";".join(f"{name}={value}" for name, value in self.controls.items())
        return parameters

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> ModelOptions:
        """Reads `to_parameters` again; someone may have edited the file meanwhile.

        Raises:
            UsageError: A value cannot be used.
        """
        try:
            return cls(
                engine=parameters.get("engine", "auto"),
                precision=parameters.get("precision"),
                threads=int(parameters.get("threads", "0")),
                tile=int(parameters["tile"]) if "tile" in parameters else None,
                raw=parameters.get("raw") == "true",
                extrapolate=parameters.get("extrapolate") == "true",
                controls=parse_values([text for text in parameters.get("controls", "").split(";") if text]),
            )
        except ValueError as error:
            raise UsageError(f"The parameters of config.pbtxt cannot be used: {error}") from None


class ModelTensor(NamedTuple):
    """An input or output of the model.

    Attributes:
        name: Its name.
        dtype: In Triton's words, such as "UINT8".
        shape: Its dimensions; -1 for one that each request chooses.
        optional: Whether a request may leave it out.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    optional: bool = False

    def describe(self) -> str:
        """Describes it in a few words: "UINT8 [-1,-1,3]"."""
        return f"{self.dtype} [{','.join(map(str, self.shape))}]{' optional' if self.optional else ''}"

    def to_pbtxt(self) -> str:
        """Formats it as one line of a config.pbtxt."""
        optional = " optional: true" if self.optional else ""
        dims = ", ".join(map(str, self.shape))
        return f"{{ name: {json.dumps(self.name)} data_type: TYPE_{self.dtype} dims: [ {dims} ]{optional} }}"


def list_inputs(signature: Signature, *, raw: bool) -> list[ModelTensor]:
    """Lists the inputs: an image or a raw tensor, alpha, and what a request may set besides.

    Texts are bytes of UTF-8 in a tensor of numbers: one of strings that a client formats wrongly ends the process that reads it.

    Raises:
        MismatchError: The network takes no images, and `raw` is off.
    """
    if raw:
        first = ModelTensor("input", "FP32", (-1, signature.input_channels, -1, -1))
    else:
        try:
            check_signature(signature)
        except MismatchError as error:
            raise MismatchError(f"{error} --raw serves its tensors as they are.") from None
        first = ModelTensor("image", "UINT8", (-1, -1, 3))
    controls = [ModelTensor(CONTROL_INPUT_PREFIX + each.name, "FP32", (1,), optional=True) for each in signature.controls]
    return [first, ModelTensor("alpha", "FP32", (-1,)), ModelTensor("rules", "UINT8", (-1,), optional=True), *controls]


def list_outputs(signature: Signature, *, raw: bool) -> list[ModelTensor]:
    """Lists the outputs: what was rendered, and the alpha that it was rendered with, one number for each member."""
    shape = (-1, signature.output_channels, -1, -1) if raw else (-1, -1, 3)
    return [ModelTensor("output", "FP32" if raw else "UINT8", shape), ModelTensor("alpha", "FP32", (-1,))]


def format_config(name: str, signature: Signature, options: ModelOptions) -> str:
    """Formats a config.pbtxt.

    Args:
        name: Of the model.
        signature: Of the network.
        options: How Triton runs it.

    Returns:
        The text.

    Raises:
        UsageError: A control is none of the network's.
        MismatchError: As `list_inputs`.
    """
    check_values(signature.controls, options.controls)
    lines = [
        f"{CONFIG_HEADER} {__version__}; docs/triton.md explains it.",
        f"name: {json.dumps(name)}",
        'backend: "python"',
        "max_batch_size: 0",
        *_format_list("input", list_inputs(signature, raw=options.raw)),
        *_format_list("output", list_outputs(signature, raw=options.raw)),
        f"instance_group [ {{ kind: {INSTANCE_KINDS[options.device]} count: {options.instances} }} ]",
    ]
    if options.max_queue:
        lines.append(f"dynamic_batching {{ default_queue_policy {{ max_queue_size: {options.max_queue} }} }}")
    for key, value in options.to_parameters().items():
        lines.append(f"parameters {{ key: {json.dumps(key)} value {{ string_value: {json.dumps(value)} }} }}")
    return "\n".join(lines) + "\n"


def _format_list(title: str, tensors: list[ModelTensor]) -> list[str]:
    return [f"{title} [", ",\n".join(f"  {tensor.to_pbtxt()}" for tensor in tensors), "]"]


def make_probe_request(signature: Signature, members: int, *, raw: bool) -> dict[str, Any]:
    """Makes the smallest request that runs the network, in the JSON of Triton's HTTP interface.

    Args:
        signature: Of the network.
        members: Number of members.
        raw: As in ModelOptions.

    Returns:
        The request. Its alpha is the first member alone, its answer the alpha alone.
    """
    side = 1 if signature.kind == "latent" else signature.round_up_side(8)
    shape = [signature.frame_batch, signature.input_channels, side, side] if raw else [side, side, 3]
    alpha = [1.0] if members == 2 else [1.0, *[0.0] * (members - 1)]
    first = list_inputs(signature, raw=raw)[0]
    return {
        "inputs": [
            {"name": first.name, "datatype": first.dtype, "shape": shape, "data": [0.5 if raw else 128] * math.prod(shape)},
            {"name": "alpha", "datatype": "FP32", "shape": [len(alpha)], "data": alpha},
        ],
        "outputs": [{"name": "alpha"}],
    }
