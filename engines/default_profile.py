"""The input shapes that a plan is built for where none are named: as large as the network's scale and the GPU's memory suggest.

A frame of the largest shape has to fit. TensorRT before 10.1 even reserves its activations when a plan is opened, however small the
frames are.
"""

from __future__ import annotations

import logging
from math import prod

import numpy as np
import onnx

from dni_deploy.bundle.bundle import Bundle
from engines import ort_session
from engines.cuda import driver
from engines.profile import MIN_PROFILE_SIZE_PX, InputShape, Profile, make_default_shape

log = logging.getLogger(__name__)

MAX_SIZES_PX = ((1088, 1920), (720, 1280), (544, 960), (360, 640), (256, 256))
"""Height and width of the default's largest shape, from which the first that suits is taken."""
MAX_FULL_HD_SCALE = 2
"""The largest scale that gets the first of these sizes; what is enlarged more gets the tuned size at most."""
LIVE_TENSORS = 3
"""How many activations as large as the largest are held at once, by estimate: an operator's input and output, and a skip's."""
MEMORY_SHARE = 0.5
"""Of the GPU's memory, for activations; the rest is for weights, frames, another slot and other programs."""


def make_profile(
    bundle: Bundle,
    precision: str,
    device: int = 0,
    smallest: str | InputShape | None = None,
    tuned: str | InputShape | None = None,
    largest: str | InputShape | None = None,
) -> Profile:
    """Makes a profile as `Profile.from_shapes` does, with a default for the largest shape that should fit this GPU.

    It depends on the GPU's whole memory, never on what is free: a plan's profile is part of its identity.

    Args:
        bundle: The bundle.
        precision: "fp32", "tf32" or "fp16".
        device: The GPU's number as the driver counts.
        smallest: As for `Profile.from_shapes`, like `tuned` and `largest`.
        tuned: (N, C, H, W) or a text such as 1x3x256x256; alone, the only shape.
        largest: None for the default.

    Raises:
        UsageError: As from `Profile.from_shapes`.
        EngineError: ONNX Runtime cannot run the network.
    """
    signature = bundle.signature
    is_needed = largest is None and (tuned is None or smallest is not None) and signature.kind == "image"
    max_size = choose_max_size(bundle, precision, driver.query_total_memory(device)) if is_needed else MAX_SIZES_PX[0]
    return Profile.from_shapes(signature, smallest, tuned, largest, max_size)


def choose_max_size(bundle: Bundle, precision: str, memory_bytes: int | None) -> tuple[int, int]:
    """Chooses height and width of the default's largest shape; `memory_bytes` is the GPU's, None where it is not known."""
    signature = bundle.signature
    sizes = MAX_SIZES_PX if signature.scale <= MAX_FULL_HD_SCALE else MAX_SIZES_PX[1:]
    if memory_bytes is None:
        return sizes[0]
    bytes_per_pixel = LIVE_TENSORS * measure_largest_tensor(bundle) * (2 if precision == "fp16" else 4)
    fitting = [size for size in sizes if bytes_per_pixel * prod(size) <= MEMORY_SHARE * memory_bytes]
    log.info("activations take some %.0f bytes per pixel; largest default shapes that fit: %s", bytes_per_pixel, fitting)
    return fitting[0] if fitting else sizes[-1]


def measure_largest_tensor(bundle: Bundle) -> float:
    """Measures how many elements the largest tensor has that the network computes for a frame, per pixel of the frame.

    The network is run once, small, with all that it computes as outputs: shapes that follow from other shapes by arithmetic are
    not all inferred by ONNX. Padding counts for more there than in larger frames, so that the number is rather too large.

    Raises:
        EngineError: ONNX Runtime cannot run the network.
    """
    signature = bundle.signature
    shape = make_default_shape(signature.frame_batch, MIN_PROFILE_SIZE_PX, signature)
    model = bundle.read_graph_with_weights(bundle.members[0])
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for node in model.graph.node for name in node.output if name)
    outputs = ort_session.run_outputs(ort_session.open_cpu_session(model), None, np.zeros(shape, np.float32))
    return max(output.size for output in outputs) / prod(shape[2:])
