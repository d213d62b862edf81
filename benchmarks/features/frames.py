"""Times what a frame costs around the network, and frames per second of the ways to render them.

    python -m benchmarks.features.frames                     into benchmarks/results/frames.json
    python -m benchmarks.features.frames --rounds 3 -o -     printed only

Every round runs each way of a comparison once, in rotating order. The result is the median of the per-round ratios.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.compare import compare_times, make_timer
from benchmarks.features.film import ENCODER_OPTIONS
from benchmarks.result_file import describe_run, write_result
from benchmarks.samples import ROOT, write_compact_bundle, write_video
from dni_deploy.api.video import video
from dni_deploy.blending.blend import blend_float64
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.imaging import frames as reference
from dni_deploy.session.session import Session, open_session
from dni_deploy.signature import Signature
from dni_deploy.utils.onnxruntime_library import ort
from engines import frame_conversion

RESULT_PATH = ROOT / "benchmarks" / "results" / "frames.json"
CONVERSIONS = {"1280x720 x1": (1280, 720, 1), "1920x1080 x2": (1920, 1080, 2), "1280x720 x4": (1280, 720, 4)}
ALPHA = (0.5, 0.5)
VIEWERS = 16


def compare_conversions(rounds: int) -> dict[str, Any]:
    """Times the conversion of a frame to the network and back, ours over the plain NumPy one, for each size and scale."""
    rng = np.random.default_rng(0)
    results = {}
    for name, (width, height, scale) in CONVERSIONS.items():
        frame = rng.integers(0, 256, (height, width, 3), np.uint8)
        y = rng.random((1, 3, scale * height, scale * width), np.float32) * np.float32(1.2) - np.float32(0.1)
        signature = Signature(scale=scale)

        def convert(module: Any, frame: Any = frame, y: Any = y, signature: Signature = signature) -> Callable[[], float]:
            def convert_once() -> None:
                module.to_network(frame, signature)
                module.from_network(y, frame, signature)

            return make_timer(convert_once)

        results[name] = compare_times(
            {"plain NumPy": convert(reference), "ours": convert(frame_conversion)}, rounds, over="plain NumPy"
        )
    return results


def compare_calls(session: Session, frames: list[NDArray[np.uint8]], rounds: int) -> dict[str, Any]:
    """Times a number of frames by `infer` alone, one by one, in a stream, and with an alpha that each frame brings."""
    x = reference.to_network(frames[0], session.signature)
    alphas = [(index % 7 / 10, 1 - index % 7 / 10) for index in range(len(frames))]

    def infer() -> None:
        for _ in frames:
            session.infer(x)

    def set_and_call() -> None:
        for frame, alpha in zip(frames, alphas, strict=True):
            session.alpha = alpha
            session(frame)

    def call_with_alpha() -> None:
        for frame, alpha in zip(frames, alphas, strict=True):
            session(frame, alpha=alpha)

    def stream() -> None:
        for _ in session.stream(frames):
            pass

    ways = {
        "infer alone": infer,
        "session(frame)": lambda: [session(frame) for frame in frames],
        "session.stream(frames)": stream,
    }
    own = {"set alpha, then session(frame)": set_and_call, "session(frame, alpha=...)": call_with_alpha}
    return {
        "steady": compare_times({name: make_timer(way) for name, way in ways.items()}, rounds, over="infer alone"),
        "an alpha for every frame": compare_times(
            {name: make_timer(way) for name, way in own.items()}, rounds, over="set alpha, then session(frame)"
        ),
    }


def run_simplest_script(bundle: Bundle, source: Path, output: Path) -> None:
    """Decodes, runs ONNX Runtime and encodes, as the first script that one would write: NumPy around a stock session."""
    members = bundle.read_all_weights()
    model = bundle.read_graph_with_weights(blend_float64(members, np.array(ALPHA)))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with av.open(str(source)) as read, av.open(str(output), "w") as write:
        stream = read.streams.video[0]
        encoded = write.add_stream("libx264", rate=stream.average_rate, options=ENCODER_OPTIONS.given_options)
        encoded.width, encoded.height = stream.width * bundle.signature.scale, stream.height * bundle.signature.scale
        encoded.pix_fmt = "yuv420p"
        for frame in read.decode(stream):
            x = frame.to_ndarray(format="rgb24").astype(np.float32).transpose(2, 0, 1)[None] / 255
            y = session.run(None, {"x": x})[0]
            rgb = (y[0].transpose(1, 2, 0) * 255).round().clip(0, 255).astype(np.uint8)
            write.mux(encoded.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")))
        write.mux(encoded.encode(None))


def count_wrong_frames(bundle: Bundle, frames_each: int) -> dict[str, int]:
    """Renders frames in VIEWERS threads on one session, each with an alpha of its own, and counts those that have another one."""
    alphas = [(viewer / (VIEWERS - 1), 1 - viewer / (VIEWERS - 1)) for viewer in range(VIEWERS)]
    frame = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    wrong = [0] * VIEWERS
    with open_session(bundle, engine="onnxruntime", threads=1) as session:
        expected = []
        for alpha in alphas:
            session.alpha = alpha
            expected.append(session(frame))

        def view(viewer: int) -> None:
            for _ in range(frames_each):
                wrong[viewer] += not np.array_equal(session(frame, alpha=alphas[viewer]), expected[viewer])

        threads = [threading.Thread(target=view, args=(viewer,)) for viewer in range(VIEWERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return {"viewers": VIEWERS, "frames": VIEWERS * frames_each, "wrong": sum(wrong)}


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=9, show_default=True)
@click.option("--frames", type=click.IntRange(10), default=40, show_default=True, help="Of each round.")
@click.option("-o", "--output", type=click.Path(path_type=Path, allow_dash=True), default=RESULT_PATH)
def main(rounds: int, frames: int, output: Path) -> None:
    """Times frames through a session."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, out = folder / "source.mp4", folder / "out.mp4"
        write_video(source, 640, 360, 30, frames)
        write_compact_bundle(folder / "compact.dni", 24, 8, 2)
        bundle = Bundle.open(folder / "compact.dni")
        rng = np.random.default_rng(0)
        images = [rng.integers(0, 256, (360, 640, 3), np.uint8) for _ in range(frames)]
        result: dict[str, Any] = {
            **describe_run(ROOT),
            "onnxruntime": ort.__version__,
            "conversion around the network": compare_conversions(rounds),
            "an alpha for each of 16 threads": count_wrong_frames(bundle, 1000),
        }
        with open_session(bundle, engine="onnxruntime", alpha=ALPHA) as session:
            result["Compact 24x8, x2, 640x360"] = {"frames": frames} | compare_calls(session, images, rounds)
        result["Compact 24x8, x2, 640x360, video"] = {"frames": frames} | compare_times(
            {
                "the simplest script": make_timer(lambda: run_simplest_script(bundle, source, out)),
                "dni-deploy video": lambda: video(bundle, source, out, list(ALPHA), force=True).seconds,
            },
            rounds,
            over="the simplest script",
        )
    write_result(output, result)


if __name__ == "__main__":
    main()
