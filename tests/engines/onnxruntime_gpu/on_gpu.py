"""On a GPU: ONNX Runtime's CUDA provider for real. A program of its own, because the other tests run its CPU provider on a fake GPU.

    python -m tests.engines.onnxruntime_gpu.on_gpu

Prints a line for each check, then times of frames; an error ends it with a code that is not 0. Needs neither PyTorch nor pytest.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.writer import write_bundle
from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.checkpoints.family import Family
from dni_deploy.imaging import frames
from dni_deploy.session.session import Session, open_session
from dni_deploy.signature import Signature
from dni_deploy.utils.compare_arrays import psnr_db, relative_error
from engines import ort_session
from engines.interface import PRECISIONS, EngineOptions
from engines.onnxruntime_gpu.load import open_bound
from engines.onnxruntime_gpu.session import NHWC_VARIABLE
from engines.verification import describe_tolerance, is_within_tolerance

ALPHAS = ([1.0, 0.0], [0.0, 1.0], [0.3, 0.7], [0.5, 0.5], [0.85, 0.15], [1.0, 0.0])
"""Each member, three mixed ones, and the first member again."""
SHAPES = ((64, 64), (64, 64), (32, 96), (64, 64))
"""Height and width of the frames in turn, so that shapes change and come back."""
MAX_LEVELS = {"fp32": 1, "tf32": 3, "fp16": 3}
"""How far a pixel of a uint8 frame may be off: an error of 7e-3 of 255 is 2 levels, and rounding adds one."""


def write(path: Path, channels: int, width: int, depth: int, *, instance_norm: bool = False) -> Bundle:
    """Writes a network of two members that doubles images: `depth` times Conv, a norm and PReLU, then Conv and DepthToSpace."""
    nodes, shapes, x, inputs = [], dict[str, tuple[int, ...]](), "x", channels
    for layer in range(depth):
        at = f"{layer}."
        names = [f"{at}norm.weight", f"{at}norm.bias"]
        if not instance_norm:
            names += [f"{at}norm.running_mean", f"{at}norm.running_var"]
        shapes |= {f"{at}conv.weight": (width, inputs, 3, 3), f"{at}conv.bias": (width,)}
        shapes |= dict.fromkeys(names, (width,)) | {f"{at}prelu.weight": (width, 1, 1)}
        nodes += [
            helper.make_node("Conv", [x, f"{at}conv.weight", f"{at}conv.bias"], [f"{at}c"], name=f"{at}c", pads=[1] * 4),
            helper.make_node(
                "InstanceNormalization" if instance_norm else "BatchNormalization",
                [f"{at}c", *names],
                [f"{at}n"],
                name=f"{at}n",
            ),
            helper.make_node("PRelu", [f"{at}n", f"{at}prelu.weight"], [f"{at}p"], name=f"{at}p"),
        ]
        x, inputs = f"{at}p", width
    shapes |= {"last.weight": (4 * channels, width, 3, 3), "last.bias": (4 * channels,)}
    nodes += [
        helper.make_node("Conv", [x, "last.weight", "last.bias"], ["last"], name="last", pads=[1] * 4),
        helper.make_node("DepthToSpace", ["last"], ["y"], name="y", blocksize=2),
    ]
    info, weights = (
        helper.make_tensor_value_info,
        [numpy_helper.from_array(np.ones(s, np.float32), n) for n, s in shapes.items()],
    )
    graph = helper.make_graph(
        nodes, "doubling", [info("x", onnx.TensorProto.FLOAT, ["n", channels, "h", "w"])],
        [info("y", onnx.TensorProto.FLOAT, ["n", channels, "h2", "w2"])], weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    members = {name: replace(draw_member(shapes, seed), source=f"{name}.pth") for seed, name in enumerate("ab")}
    signature = Signature(input_channels=channels, output_channels=channels, scale=2)
    return write_bundle(path, model, Family.from_checkpoints(members), signature, architecture="hand", graph_facts={})


def draw_member(shapes: dict[str, tuple[int, ...]], seed: int) -> Checkpoint:
    """Draws weights that keep the size of activations."""
    random = np.random.default_rng(seed)
    drawn = {}
    for name, shape in shapes.items():
        spread = np.sqrt(2 / np.prod(shape[1:])) if len(shape) == 4 else 0.1
        middle = 1.0 if name.endswith(("norm.weight", "running_var")) else 0.25 if name.endswith("prelu.weight") else 0.0
        drawn[name] = (middle + spread * random.uniform(-1, 1, shape)).astype(np.float32)
    return Checkpoint.from_state_dict(drawn)


def compute_truth(bundle: Bundle, alpha: list[float], x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Computes the output by ONNX Runtime on the CPU, with weights blended in float64."""
    members = [bundle.read_weights(name) for name in bundle.members]
    return ort_session.run_session(ort_session.open_blended_session(bundle.read_graph(), members, np.array(alpha), None), x)


def make_input(bundle: Bundle, height: int, width: int) -> NDArray[np.float32]:
    return np.random.default_rng(height).random((1, bundle.signature.input_channels, height, width), np.float32)


def make_frame(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)


def check_alphas(bundle: Bundle, precision: str, cuda_graph: bool, slots: int) -> str:
    """Every slot at every alpha, in several shapes, against the truth; the first member's bits have to come back."""
    engine = open_bound(bundle, EngineOptions(precision=precision, cuda_graph=cuda_graph, slots=slots))
    worst, lowest = 0.0, np.inf
    try:
        for slot in range(slots):
            before: list[NDArray[np.float32]] = []
            for alpha in ALPHAS:
                engine.refit(slot, np.array(alpha))
                outputs = [engine.infer(slot, make_input(bundle, *shape)) for shape in SHAPES]
                for shape, output in zip(SHAPES, outputs, strict=True):
                    expected = compute_truth(bundle, alpha, make_input(bundle, *shape))
                    error, psnr = relative_error(output, expected), psnr_db(output, expected)
                    allowed = describe_tolerance(precision)
                    assert is_within_tolerance(error, psnr, precision), (
                        f"{alpha}: {error:.1e}, {psnr:.0f} dB; allowed: {allowed}"
                    )
                    worst, lowest = max(worst, error), min(lowest, psnr)
                assert np.array_equal(outputs[0], outputs[1]), "the same frame gives other bits"
                if alpha == ALPHAS[0]:
                    before = before or outputs
                    assert all(map(np.array_equal, before, outputs)), f"slot {slot}: A -> B -> A gives other bits"
        return f"error {worst:.1e}, {lowest:.0f} dB; {engine.update_path}"
    finally:
        engine.close()


def check_frames(bundle: Bundle, precision: str, cuda_graph: bool) -> str:
    """Frames through a session, one by one and several under way, against the reference conversion around the truth."""
    inputs = [make_frame(48, 40), make_frame(31, 50), make_frame(48, 40)]
    with open_session(bundle, engine="onnxruntime-gpu", precision=precision, cuda_graph=cuda_graph, alpha=0.35) as session:
        outputs = [session(frame) for frame in inputs]
        streamed = [rendered.output for rendered in session.stream(inputs)]
        alpha = list(map(float, session.alpha.to_array()))
    worst = 0
    for frame, output, again in zip(inputs, outputs, streamed, strict=True):
        expected = frames.from_network(
            compute_truth(bundle, alpha, frames.to_network(frame, bundle.signature)), frame, bundle.signature
        )
        worst = max(worst, int(np.abs(output.astype(int) - expected).max()))
        assert np.array_equal(output, again), "a frame among others gives other pixels"
    assert worst <= MAX_LEVELS[precision], f"a pixel is off by {worst} levels"
    return f"{worst} of 255 levels off at most"


def time_frames(bundle: Bundle, size: tuple[int, int], rounds: int) -> Iterator[str]:
    """Times frames from pixels to pixels, every variant in turn, round after round; then two sizes in turn."""
    frame, other = make_frame(*size), make_frame(size[0] // 2, size[1] // 2)
    variants: dict[str, dict[str, Any]] = {precision: {"precision": precision} for precision in PRECISIONS}
    variants["fp16, CUDA graph"] = {"precision": "fp16", "cuda_graph": True}
    variants["fp16, channels last"] = {"precision": "fp16"}
    with ExitStack() as stack:
        sessions: dict[str, Session] = {}
        for name, options in variants.items():
            with mock.patch.dict(os.environ, {NHWC_VARIABLE: "1" if "channels last" in name else "0"}):
                sessions[name] = stack.enter_context(open_session(bundle, engine="onnxruntime-gpu", **options))
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        for _, (name, session) in itertools.product(range(rounds + 2), sessions.items()):
            seconds[name].append(time_frame(session, frame))
        for name, each in seconds.items():
            yield f"frame of {size[1]} x {size[0]}, {name}: {1e3 * np.median(each[2:]):.2f} ms"
        alternating = []
        for _ in range(rounds):
            time_frame(sessions["fp16"], other)
            alternating.append(time_frame(sessions["fp16"], frame))
        yield f"the same between frames of another size, fp16: {1e3 * np.median(alternating):.2f} ms"


def time_frame(session: Session, frame: NDArray[np.uint8]) -> float:
    started = time.perf_counter()
    session(frame)
    return time.perf_counter() - started


def run(folder: Path, size: tuple[int, int] = (720, 1280), rounds: int = 20, depth: int = 16) -> Iterator[str]:
    """Yields each check as a line when it has passed.

    Args:
        folder: For bundles.
        size: Height and width of the frames that are timed.
        rounds: How many of them.
        depth: Layers of the network that is timed.
    """
    bundles = {
        "BatchNorm, color": write(folder / "color.dni", 3, 16, 3),
        "InstanceNorm, color": write(folder / "instance.dni", 3, 16, 3, instance_norm=True),
        "BatchNorm, gray": write(folder / "gray.dni", 1, 16, 3),
    }
    for (title, bundle), precision, cuda_graph in itertools.product(bundles.items(), PRECISIONS, (False, True)):
        mode = f"{title}, {precision}{', CUDA graph' if cuda_graph else ''}"
        yield f"{mode}, 2 slots: {check_alphas(bundle, precision, cuda_graph, 2)}"
        yield f"{mode}, frames: {check_frames(bundle, precision, cuda_graph)}"
    yield from time_frames(write(folder / "timed.dni", 3, 64, depth), size, rounds)


def main(arguments: list[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(arguments)
    print(f"ONNX Runtime {ort.__version__}, NumPy {np.__version__}, Python {sys.version.split()[0]}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for line in run(Path(scratch)):
            print(line, flush=True)
    print("all checks passed")


if __name__ == "__main__":
    main()
