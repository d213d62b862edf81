"""bench: time an alpha change and a frame, ours and the other ways, in one run on this machine."""

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
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dni_deploy import __version__
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import DniError, EnvironmentProblem, UsageError, shown
from dni_deploy.latency.memory import resident_bytes
from dni_deploy.latency.modes import ROWS, Row, copy_row
from dni_deploy.latency.timing import Samples, interleaved, ratio
from dni_deploy.utils.atomic_write import publish_bytes
from dni_deploy.utils.hardware import cores, cpu
from dni_deploy.utils.optional_packages import open_door
from dni_deploy.utils.progress import MaybeProgress, tell
from engines.cuda import driver

OURS, STOCK, ON_GPU = "in place", "constant", ("tensorrt", "ort gpu")


@dataclass(frozen=True)
class RowResult:
    """One way's medians in milliseconds (None where alpha cannot change), and its resident memory.

    changed   a frame with a change before it: change + first, round by round.
    """

    name: str
    title: str
    change_ms: float | None
    first_ms: float | None
    changed_ms: float | None
    steady_ms: float
    memory_mb: float | None
    road: str


@dataclass(frozen=True)
class BenchReport:
    """rows, and ratios round by round (medians) by name; skipped: rows that could not run, with the reason."""

    bundle: str
    architecture: str
    members: int
    parameters: int
    shape: tuple[int, ...]
    rounds: int
    threads: int
    machine: dict[str, str]
    rows: tuple[RowResult, ...]
    ratios: dict[str, float]
    skipped: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def bench(
    bundle_path: str | os.PathLike[str],
    *,
    shape: Sequence[int] | None = None,
    repeats: int = 20,
    rows: Sequence[str] | None = None,
    memory: bool = True,
    threads: int = 0,
    output: str | os.PathLike[str] | None = None,
    plot: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: MaybeProgress = None,
) -> BenchReport:
    """Open every row on the bundle and time them together.

    shape    of the input, (N, C, H, W); default one picture of 256 x 256, or of 64 x 64 for a network that enlarges. The shipped
             photograph fills it.
    repeats  rounds that count; each round runs every row once.
    rows     names of the rows to open; default all.
    output   also write the report as JSON here; refused before the work if it exists and `force` is off. plot: the same, as a picture.
    """
    for path in (output, plot):
        if path is not None and os.path.lexists(path) and not force:
            raise UsageError(f"{shown(path)} exists; give --force to replace it. Nothing was written.")
    if plot is not None:
        open_door("dni_deploy.reports.plot").check_plot_name(plot)
    bundle = Bundle.open(bundle_path)
    chosen = [row for row in ROWS if rows is None or row.name in rows]
    size = tuple(shape) if shape is not None else _default_shape(bundle)
    signature = bundle.signature
    if len(size) != 4 or size[1] != signature.input_channels:
        raise UsageError(f"The network takes N x {signature.input_channels} x H x W; the shape is {'x'.join(map(str, size))}.")
    threads = threads or cores()
    x = _input(bundle, size)

    skipped: dict[str, str] = {}
    with ExitStack() as opened:
        engines, copies = {}, {}
        for number, row in enumerate(chosen):
            tell(progress, number, len(chosen), f"opening {row.name}")
            try:
                obstacle = row.obstacle(bundle)
                if obstacle is not None:
                    skipped[row.name] = obstacle
                    continue
                engine = row.open(bundle, threads)
            except (DniError, MemoryError) as error:
                skipped[row.name] = str(error) or type(error).__name__
                continue
            opened.callback(engine.close)
            engines[row.name] = engine
            copy = copy_row(engine)
            if copy is not None:
                copies[row.name] = copy
        if not engines:
            raise EnvironmentProblem(f"Nothing can be timed here; {'; '.join(f'{n}: {why}' for n, why in skipped.items())}.")
        roads = {name: engine.road for name, engine in engines.items()}
        samples = interleaved(engines, copies, x, len(bundle.members), repeats, progress=progress)
    results = []
    for number, row in enumerate(row for row in chosen if row.name in samples):
        tell(progress, number, len(samples), f"memory of {row.name}")
        used = resident_bytes(os.fspath(bundle_path), row.name, size, threads) if memory and not row.gpu else None
        results.append(_result(row, samples[row.name], used, roads[row.name]))
    report = BenchReport(
        bundle=Path(bundle_path).name,
        architecture=bundle.architecture,
        members=len(bundle.members),
        parameters=sum(int(np.prod(weight.shape)) for weight in bundle.manifest.weights),
        shape=size,
        rounds=repeats,
        threads=threads,
        machine=machine(),
        rows=tuple(results),
        ratios=_ratios(samples),
        skipped=skipped,
    )
    if output is not None:
        text = json.dumps({"schema": 1, "command": "bench", **report.to_json()}, indent=2, allow_nan=False)
        publish_bytes(output, (text + "\n").encode(), force=force)
    if plot is not None:
        rows_json = {report.architecture: [asdict(row) for row in report.rows]}
        open_door("dni_deploy.reports.bench_plot").plot_bench(plot, rows_json, force=force)
    return report


def machine() -> dict[str, str]:
    """What a reader needs to judge the figures: processor, cores, versions, date."""
    name, flags = cpu()
    facts = {"cpu": name, "instruction sets": ", ".join(flags), "cores": str(cores()), "system": platform.system()}
    graphics = driver.ask()
    if isinstance(graphics, driver.Driver) and graphics.devices:
        facts["gpu"] = shown(graphics.devices[0][0])
        facts["cuda of the driver"] = ".".join(map(str, graphics.version))
    for package in ("onnxruntime", "onnxruntime-gpu", "tensorrt", "pycuda", "torch", "numpy"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    facts["python"] = platform.python_version()
    facts["dni-deploy"] = __version__
    facts["date"] = datetime.now(timezone.utc).date().isoformat()
    return facts


def _default_shape(bundle: Bundle) -> tuple[int, int, int, int]:
    signature = bundle.signature
    if signature.kind == "latent":
        return (1, signature.input_channels, 1, 1)
    side = 256 if signature.scale == 1 else 64
    side = -(-side // signature.multiple) * signature.multiple
    return (1, signature.input_channels, side, side)


def _input(bundle: Bundle, shape: tuple[int, ...]) -> NDArray[np.float32]:
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
    picture = signature.low + (signature.high - signature.low) * filled
    return np.array(np.broadcast_to(picture, shape), np.float32)  # a copy: PyTorch wants to be able to write to it


def _result(row: Row, samples: Samples, memory: int | None, road: str) -> RowResult:
    def median(series: list[float]) -> float:
        return float(np.median(series)) * 1e3

    return RowResult(
        row.name,
        row.title,
        median(samples.change) if row.changes else None,
        median(samples.first) if row.changes else None,
        median([change + first for change, first in zip(samples.change, samples.first, strict=True)]) if row.changes else None,
        # Without a change both frames of a round are steady ones, so both kinds of row keep as many.
        median(samples.steady),
        None if memory is None else memory / 1e6,
        road,
    )


def _ratios(samples: dict[str, Samples]) -> dict[str, float]:
    ours = samples.get(OURS)
    if ours is None:
        return {}
    changed = [change + first for change, first in zip(ours.change, ours.first, strict=True)]
    found = {"frame with a change / steady frame": ratio(changed, ours.steady)}
    if ours.copy:
        found["alpha change / plain copy of the same bytes"] = ratio(ours.change, ours.copy)
    for name in ON_GPU:
        if name in samples:
            changed = [change + first for change, first in zip(samples[name].change, samples[name].first, strict=True)]
            found[f"frame with a change / steady frame, {name}"] = ratio(changed, samples[name].steady)
    if "tensorrt" in samples and "trt constant" in samples:
        found["steady frame, tensorrt / trt constant"] = ratio(samples["tensorrt"].steady, samples["trt constant"].steady)
    for name, other in samples.items():
        if name != OURS:
            found[f"steady frame, ours / {name}"] = ratio(ours.steady, other.steady)
            if name not in (STOCK, "trt constant"):
                found[f"alpha change, {name} / ours"] = ratio(other.change, ours.change)
    return found
