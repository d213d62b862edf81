"""Times an alpha change and a frame in every backend mode, in one run on this machine."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dni_deploy._version import __version__
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import DniError, UnavailableError, UsageError, escape_name
from dni_deploy.latency.modes import BACKEND_MODES, BackendMode, make_copy_baseline
from dni_deploy.latency.timing import TimingSamples, compute_median_ratio, measure_mode_memory, time_interleaved
from dni_deploy.signature import Signature
from dni_deploy.utils.atomic_write import write_bytes_atomically
from dni_deploy.utils.hardware import count_cores, cpu_name, layout_instruction_sets
from dni_deploy.utils.optional_packages import import_optional
from dni_deploy.utils.progress import OptionalProgress, report_progress
from engines.cuda import driver
from engines.interface import EngineOptions

if TYPE_CHECKING:
    from dni_deploy.latency.video import VideoBenchReport

BENCH_SCHEMA_VERSION = 2
"""Version of the JSON file that `output` names."""
CPU_MODE, CPU_BASELINE, GPU_MODES = "in place", "constant", ("tensorrt", "tensorrt-rtx", "ort gpu")
CPU_PEERS = ("openvino", "torch compile")
"""Other runtimes' fastest modes in float32 on the CPU; bfloat16 is another precision."""


@dataclass(frozen=True)
class ModeResult:
    """The times of one backend mode: medians in milliseconds.

    Attributes:
        name: Name of the mode.
        title: What it is, in a few words.
        change_ms: A change of alpha; None if alpha cannot change.
        first_ms: The first frame after a change; None if alpha cannot change.
        changed_ms: A frame with a change before it: change + first, round by round.
        steady_ms: A frame without a change.
        pixels_ms: The same from pixels to pixels, converted to the network and back; None for a network that takes no frames.
        memory_mb: Resident memory in megabytes; None if it was not measured.
        update_path: How new weights reach the running network.
    """

    name: str
    title: str
    change_ms: float | None
    first_ms: float | None
    changed_ms: float | None
    steady_ms: float
    pixels_ms: float | None
    memory_mb: float | None
    update_path: str


@dataclass(frozen=True)
class BenchReport:
    """What `bench` measured.

    Attributes:
        bundle: Name of the bundle.
        architecture: Name of the architecture.
        members: Number of members.
        parameters: Number of parameters that are blended.
        shape: Shape of the input, (N, C, H, W).
        rounds: Number of rounds.
        threads: Number of threads of the CPU modes.
        machine: Facts about this machine by name.
        rows: One row for each mode.
        ratios: Medians of ratios round by round, by name.
        skipped: Mode -> the reason why it could not run.
    """

    bundle: str
    architecture: str
    members: int
    parameters: int
    shape: tuple[int, ...]
    rounds: int
    threads: int
    machine: dict[str, str]
    rows: tuple[ModeResult, ...]
    ratios: dict[str, float]
    skipped: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Returns the report as `--json` prints it."""
        return asdict(self)


def bench(
    bundle_path: str | os.PathLike[str],
    *,
    shape: Sequence[int] | None = None,
    repeats: int = 20,
    modes: Sequence[str] | None = None,
    measure_memory: bool = True,
    build_baselines: bool = False,
    threads: int = 0,
    output: str | os.PathLike[str] | None = None,
    plot: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: OptionalProgress = None,
) -> BenchReport:
    """Opens every backend mode on the bundle and times them together, interleaved.

    Args:
        bundle_path: Path of the bundle.
        shape: Shape of the input, (N, C, H, W); None: one image of 256 x 256, or 64 x 64 for a network that enlarges. The
            photograph that ships with the package fills it.
        repeats: Number of rounds that are timed; each round runs every mode once.
        modes: Names of the modes to open; None: all.
        build_baselines: First build the plans of the TensorRT baselines that the bundle lacks, with the precision and the
            profile of its plan for `tensorrt`.
        measure_memory: Measure the resident memory of each CPU mode, in a process of its own.
        threads: Number of threads of the CPU modes; 0: one per core.
        output: A file to write the report to as JSON.
        plot: A file to write a plot to: .png, .svg or .pdf.
        force: Replace files that exist.
        progress: Called with the modes opened, then with the rounds done.

    Returns:
        The report.

    Raises:
        UsageError: A file exists, or the shape does not suit the network.
        UnavailableError: No mode can run here.
    """
    for path in (output, plot):
        if path is not None and os.path.lexists(path) and not force:
            raise UsageError(f"{escape_name(path)} exists; give --force to replace it. Nothing was written.")
    if plot is not None:
        import_optional("dni_deploy.reports.plot").check_plot_name(plot)
    bundle = Bundle.open(bundle_path)
    chosen = [row for row in BACKEND_MODES if modes is None or row.name in modes]
    input_shape = tuple(shape) if shape is not None else _choose_default_shape(bundle)
    signature = bundle.signature
    if len(input_shape) != 4 or input_shape[1] != signature.input_channels:
        raise UsageError(
            f"The network takes N x {signature.input_channels} x H x W; the shape is {'x'.join(map(str, input_shape))}."
        )
    threads = threads or count_cores()
    x = _make_input(bundle, input_shape)
    frame = _make_frame(x, signature)
    render_frame = None if frame is None else lambda engine: engine.render(0, frame, signature)

    skipped: dict[str, str] = {}
    with ExitStack() as opened:
        engines, copies = {}, {}
        for number, row in enumerate(chosen):
            report_progress(progress, number, len(chosen), f"opening {row.name}")
            try:
                obstacle = row.unavailable_reason(bundle)
                if obstacle is not None:
                    skipped[row.name] = obstacle
                    continue
                if build_baselines and row.build_plan is not None:
                    row.build_plan(bundle, progress)
                engine = row.open_engine(bundle, EngineOptions(threads=0 if row.on_gpu else threads, slots=1))
                opened.callback(engine.close)
                engine.refit(0, np.full(len(bundle.members), 1 / len(bundle.members)))
                engine.infer(0, x)  # some compile the network now, which can fail
            except (DniError, MemoryError) as error:
                skipped[row.name] = str(error) or type(error).__name__
                continue
            engines[row.name] = engine
            copy = make_copy_baseline(engine)
            if copy is not None:
                copies[row.name] = copy
        if not engines:
            raise UnavailableError(f"Nothing can be timed here; {'; '.join(f'{n}: {why}' for n, why in skipped.items())}.")
        update_paths = {name: engine.update_path for name, engine in engines.items()}
        samples = time_interleaved(
            engines, copies, x, len(bundle.members), repeats, render_frame=render_frame, progress=progress
        )
    results = []
    for number, row in enumerate(row for row in chosen if row.name in samples):
        memory_bytes = None
        if measure_memory and not row.on_gpu:
            report_progress(progress, number, len(samples), f"memory of {row.name}")
            memory_bytes = measure_mode_memory(os.fspath(bundle_path), row.name, input_shape, threads)
        results.append(_make_result(row, samples[row.name], memory_bytes, update_paths[row.name]))
    report = BenchReport(
        bundle=Path(bundle_path).name,
        architecture=bundle.architecture,
        members=len(bundle.members),
        parameters=sum(int(np.prod(weight.shape)) for weight in bundle.manifest.weights),
        shape=input_shape,
        rounds=repeats,
        threads=threads,
        machine=describe_machine(),
        rows=tuple(results),
        ratios=_compute_ratios(samples) | _compute_memory_ratio(results),
        skipped=skipped,
    )
    if output is not None:
        text = json.dumps({"schema": BENCH_SCHEMA_VERSION, "command": "bench", **report.to_json()}, indent=2, allow_nan=False)
        write_bytes_atomically(output, (text + "\n").encode(), force=force)
    if plot is not None:
        rows_json = {report.architecture: [asdict(row) for row in report.rows]}
        drawn = import_optional("dni_deploy.reports.plot").plot_bench(rows_json, Path(plot).suffix.lower()[1:])
        write_bytes_atomically(plot, drawn, force=force)
    return report


def bench_video(bundle_path: str | os.PathLike[str], video_path: str | os.PathLike[str], **options: Any) -> VideoBenchReport:
    """Times every stage of a video's frames, one after the other; see `dni_deploy.latency.video.bench_video` for the options.

    Raises:
        UnavailableError: PyAV is not installed.
    """
    report: VideoBenchReport = import_optional("dni_deploy.latency.video").bench_video(bundle_path, video_path, **options)
    return report


def describe_machine() -> dict[str, str]:
    """Describes what a reader needs to judge the figures: processor, GPU, versions, date."""
    name, flags = cpu_name(), layout_instruction_sets()
    facts = {"cpu": name, "instruction sets": ", ".join(flags), "cores": str(count_cores()), "system": platform.system()}
    cuda_driver = driver.query_driver()
    if isinstance(cuda_driver, driver.Driver) and cuda_driver.devices:
        facts["gpu"] = escape_name(cuda_driver.devices[0][0])
        facts["cuda of the driver"] = ".".join(map(str, cuda_driver.version))
    packages = (
        "onnxruntime",
        "onnxruntime-gpu",
        "tensorrt",
        "tensorrt-rtx",
        "cuda-bindings",
        "pycuda",
        "openvino",
        "torch",
        "numpy",
    )
    for package in packages:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    facts["python"] = platform.python_version()
    facts["dni-deploy"] = __version__
    facts["date"] = datetime.now(timezone.utc).date().isoformat()
    return facts


def _choose_default_shape(bundle: Bundle) -> tuple[int, int, int, int]:
    signature = bundle.signature
    if signature.kind == "latent":
        return (1, signature.input_channels, 1, 1)
    side = signature.round_up_side(256 if signature.scale == 1 else 64)
    return (1, signature.input_channels, side, side)


def _make_input(bundle: Bundle, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The shipped photograph, mirrored on to the size that is asked for, in the network's range; noise for a latent.

    A photograph and not noise, because a PRelu takes up to seven times as long where the signs of its input follow no pattern.
    """
    signature = bundle.signature
    if signature.kind == "latent":
        return np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    with (files("dni_deploy") / "data" / "astronaut.png").open("rb") as file:
        pixels = np.asarray(Image.open(file).convert("RGB"), np.float32).transpose(2, 0, 1) / 255
    channels = pixels[np.arange(shape[1]) % 3]
    filled = np.pad(channels, [(0, 0), *((0, max(0, side - 256)) for side in shape[2:])], "symmetric")[
        :, : shape[2], : shape[3]
    ]
    values = signature.low + (signature.high - signature.low) * filled
    return np.array(np.broadcast_to(values, shape), np.float32)  # a copy: PyTorch wants to be able to write to it


def _make_frame(x: NDArray[np.float32], signature: Signature) -> NDArray[np.uint8] | None:
    """The input as pixels, where the network turns frames of three channels into frames."""
    takes_frames = signature.kind == "image" and (signature.input_channels, signature.output_channels) == (3, 3)
    if not takes_frames or len(x) != 1 or any(side != signature.round_up_side(side) for side in x.shape[2:]):
        return None
    unit = (x[0] - signature.low) / (signature.high - signature.low)
    return np.ascontiguousarray(np.rint(unit * 255).astype(np.uint8).transpose(1, 2, 0))


def _make_result(mode: BackendMode, samples: TimingSamples, memory: int | None, update_path: str) -> ModeResult:
    def median(series: list[float]) -> float:
        return float(np.median(series)) * 1e3

    return ModeResult(
        mode.name,
        mode.title,
        median(samples.change) if mode.changes_alpha else None,
        median(samples.first) if mode.changes_alpha else None,
        median([change + first for change, first in zip(samples.change, samples.first, strict=True)])
        if mode.changes_alpha
        else None,
        # Without a change both frames of a round are steady ones, so both kinds of row keep as many.
        median(samples.steady),
        median(samples.pixels) if samples.pixels else None,
        None if memory is None else memory / 1e6,
        update_path,
    )


def _compute_ratios(samples: dict[str, TimingSamples]) -> dict[str, float]:
    ours = samples.get(CPU_MODE)
    if ours is None:
        return {}
    changed = [change + first for change, first in zip(ours.change, ours.first, strict=True)]
    ratios = {"frame with a change / steady frame": compute_median_ratio(changed, ours.steady)}
    if ours.pixels:
        ratios["frame from pixels to pixels / steady frame"] = compute_median_ratio(ours.pixels, ours.steady)
    if ours.copy:
        ratios["alpha change / plain copy of the same bytes"] = compute_median_ratio(ours.change, ours.copy)
    for name in GPU_MODES:
        if name in samples:
            changed = [change + first for change, first in zip(samples[name].change, samples[name].first, strict=True)]
            ratios[f"frame with a change / steady frame, {name}"] = compute_median_ratio(changed, samples[name].steady)
    if "tensorrt" in samples and "trt constant" in samples:
        ratios["steady frame, tensorrt / trt constant"] = compute_median_ratio(
            samples["tensorrt"].steady, samples["trt constant"].steady
        )
    changing = {mode.name for mode in BACKEND_MODES if mode.changes_alpha}
    for name, other in samples.items():
        if name != CPU_MODE:
            ratios[f"steady frame, ours / {name}"] = compute_median_ratio(ours.steady, other.steady)
            if name in changing:
                ratios[f"alpha change, {name} / ours"] = compute_median_ratio(other.change, ours.change)
    if samples.keys() >= set(CPU_PEERS):  # the best of fewer would look better than it is
        ratios["steady frame, ours / best CPU peer"] = max(ratios[f"steady frame, ours / {name}"] for name in CPU_PEERS)
    return ratios


def _compute_memory_ratio(results: Sequence[ModeResult]) -> dict[str, float]:
    memory = {result.name: result.memory_mb for result in results}
    ours, stock = memory.get(CPU_MODE), memory.get(CPU_BASELINE)
    return {} if ours is None or not stock else {"memory, ours / constant": ours / stock}
