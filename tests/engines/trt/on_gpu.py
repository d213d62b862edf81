"""On a GPU: the TensorRT engines for real. A program of its own, because the other tests put fakes in TensorRT's place.

    python -m tests.engines.trt.on_gpu [tensorrt | tensorrt-rtx]

Prints a line for each check; an error ends it with a code that is not 0. Needs neither PyTorch nor pytest.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from dni_deploy.blending.blend import blend_float64
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.writer import write_bundle
from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.checkpoints.family import Family
from dni_deploy.errors import UsageError
from dni_deploy.signature import Signature
from dni_deploy.utils.compare_arrays import relative_error
from engines import ort_session
from engines.interface import PRECISIONS, BuildOptions, EngineOptions
from engines.profile import Profile
from engines.trt.build import build_plan
from engines.trt.library import LIBRARY_TITLES, load_library
from engines.trt.load import open_engine, serialize_refitted
from engines.verification import MAX_RELATIVE_ERROR
from tests.engines.trt.alpha_probe_network import engine_class
from tests.support import pico_bundle

LIBRARY = "tensorrt"
"""The library that is checked."""

KINDS = ("refit", "inputs", "graph")
ALPHAS = ([1.0, 0.0], [0.0, 1.0], [0.3, 0.7], [1.0, 0.0])


def instance_norm(path: Path) -> Bundle:
    """x (1, 1, H, W) -> Conv -> InstanceNormalization -> Relu -> Conv -> y (1, 2, H, W), two members."""
    shapes = {
        "first.weight": (8, 1, 3, 3), "first.bias": (8,), "norm.weight": (8,), "norm.bias": (8,),
        "last.weight": (2, 8, 3, 3), "last.bias": (2,),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "first.weight", "first.bias"], ["c"], name="c", pads=[1] * 4),
        helper.make_node("InstanceNormalization", ["c", "norm.weight", "norm.bias"], ["n"], name="n", epsilon=1e-5),
        helper.make_node("Relu", ["n"], ["r"], name="r"),
        helper.make_node("Conv", ["r", "last.weight", "last.bias"], ["y"], name="y", pads=[1] * 4),
    ]
    weights = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in shapes.items()]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "instance_norm", [info("x", onnx.TensorProto.FLOAT, [1, 1, "H", "W"])],
        [info("y", onnx.TensorProto.FLOAT, [1, 2, "H", "W"])], weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    members = {}
    for seed, name in enumerate("ab"):
        random = np.random.default_rng(seed)
        drawn = {key: random.uniform(-0.5, 0.5, shape).astype(np.float32) for key, shape in shapes.items()}
        drawn["norm.weight"] += 1
        members[name] = replace(Checkpoint.from_state_dict(drawn), source=f"{name}.pth")
    signature = Signature(input_channels=1, output_channels=2)
    return write_bundle(path, model, Family.from_checkpoints(members), signature, architecture="hand", graph_facts={})


BUNDLES: dict[str, Callable[[Path], Bundle]] = {"pico (BatchNorm, PReLU)": pico_bundle.write, "instance norm": instance_norm}


def profile(bundle: Bundle) -> Profile:
    return Profile.from_shapes(bundle.signature, (1, 1, 16, 16), (1, 1, 64, 64), (1, 1, 96, 128))


def picture(seed: int, height: int = 64, width: int = 64) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((1, 1, height, width), np.float32)


def truth(bundle: Bundle, shares: Any, x: NDArray[np.float32]) -> NDArray[np.float32]:
    members = [bundle.read_weights(name) for name in bundle.members]
    return ort_session.run_session(
        ort_session.open_cpu_session(bundle.read_graph_with_weights(blend_float64(members, np.array(shares, np.float64)))), x
    )


@contextmanager
def opened(bundle: Bundle, name: str, **options: Any) -> Iterator[Any]:
    engine: Any = open_engine(bundle, EngineOptions(**options), engine_class(name, LIBRARY))
    try:
        yield engine
    finally:
        engine.close()


def check_kind(bundle: Bundle, name: str, precision: str, cuda_graph: bool, slots: int) -> str:
    """Every slot at every alpha, at three shapes and several times, and A -> B -> A; then what a frame out of place gives."""
    worst, limit = 0.0, MAX_RELATIVE_ERROR[precision]
    with opened(bundle, name, precision=precision, cuda_graph=cuda_graph, slots=slots) as engine:
        first: dict[tuple[int, int], Any] = {}
        for slot in range(slots):
            for shares in ALPHAS:
                engine.refit(slot, np.array(shares))
                for seed, (height, width) in enumerate(((64, 64), (64, 64), (64, 64), (16, 128), (96, 33))):
                    got = engine.infer(slot, picture(seed, height, width))
                    worst = max(worst, relative_error(got, truth(bundle, shares, picture(seed, height, width))))
                    if shares == ALPHAS[0]:
                        before = first.setdefault((slot, seed), got)
                        assert np.array_equal(before, got), f"slot {slot}: A -> B -> A gives other bits"
        assert worst <= limit, f"differs by {worst:.1e}, allowed are {limit:.0e}"
        try:
            engine.infer(0, picture(0, 8, 8))
        except UsageError:
            pass
        else:
            raise AssertionError("a frame outside the profile was taken")
        kept = f", graphs kept over refits: {engine._buffer_sets[0].runner.keep_graph_over_refit}" if cuda_graph else ""
        return f"error {worst:.1e}{kept}; {engine.update_path}"


def check_constant(bundle: Bundle, precision: str) -> str:
    with opened(bundle, "constant", precision=precision) as engine:
        engine.refit(0, np.array([1.0, 0.0]))
        error = relative_error(engine.infer(0, picture(0)), truth(bundle, [1.0, 0.0], picture(0)))
        assert error <= MAX_RELATIVE_ERROR[precision], f"differs by {error:.1e}"
        return f"error {error:.1e}"


def check_interleaved(bundle: Bundle, name: str) -> str:
    """Slot 1 is refitted and run while slot 0 runs, without a wait in between."""
    with opened(bundle, name, precision="fp32", slots=2) as engine:
        for step in range(50):
            shares = [np.array([step / 50, 1 - step / 50]), np.array([1 - step / 50, step / 50])]
            for slot in (0, 1):
                engine.refit(slot, shares[slot])
                engine.upload(slot, picture(step + slot))
                engine.enqueue(slot)
            for slot in (0, 1):
                error = relative_error(engine.download(slot), truth(bundle, shares[slot], picture(step + slot)))
                assert error <= MAX_RELATIVE_ERROR["fp32"], f"step {step}, slot {slot}: differs by {error:.1e}"
    return "50 steps"


def run(folder: Path) -> Iterator[str]:
    """Each check, as a line when it has passed."""
    strip = load_library(LIBRARY).features.strip
    for title, write in BUNDLES.items():
        bundle = write(folder / title.partition(" ")[0])
        for precision in PRECISIONS:
            for name in (*KINDS, "constant"):
                started = time.perf_counter()
                built = build_plan(
                    bundle,
                    BuildOptions(precision=precision, profile=profile(bundle)),
                    None,
                    engine_class(name, LIBRARY),
                )
                yield f"{title}, {name}, {precision}: built in {time.perf_counter() - started:.1f} s, error {built.max_relative_error:.1e}"
            for name in KINDS:
                for cuda_graph, slots in ((False, 1), (False, 2), (True, 2)):
                    result = check_kind(bundle, name, precision, cuda_graph, slots)
                    yield f"{title}, {name}, {precision}, {slots} slots{', CUDA graph' if cuda_graph else ''}: {result}"
            yield f"{title}, constant, {precision}: {check_constant(bundle, precision)}"
            data = serialize_refitted(bundle, np.array([0.3, 0.7]), precision, LIBRARY)
            yield f"{title}, {precision}: a refitted engine of {len(data)} bytes"
        for name in KINDS:
            yield f"{title}, {name}: interleaved, {check_interleaved(bundle, name)}"
        if strip:
            built = build_plan(bundle, BuildOptions(profile=profile(bundle), strip=True), None, engine_class("refit", LIBRARY))
            assert built.plan_path is not None
            yield f"{title}: stripped plan of {built.plan_path.stat().st_size} bytes; {check_kind(bundle, 'refit', 'fp32', False, 1)}"


def main(arguments: list[str] | None = None) -> None:
    global LIBRARY
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", nargs="?", choices=LIBRARY_TITLES, default=LIBRARY)
    LIBRARY = parser.parse_args(arguments).library
    print(f"{load_library(LIBRARY).title}, NumPy {np.__version__}, Python {sys.version.split()[0]}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for line in run(Path(scratch)):
            print(line, flush=True)
    print("all checks passed")


if __name__ == "__main__":
    main()
