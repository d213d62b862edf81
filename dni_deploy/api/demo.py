"""Runs the whole product on a real photograph: adds noise, makes a bundle, sweeps alpha, and writes the images.

The package has the demo family's weights, and what export and calibration made of them (benchmarks/demo_data.py), so that the
demo needs neither PyTorch nor the minute that both take.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx

from dni_deploy.api.calibrate import calibrate
from dni_deploy.api.export import export
from dni_deploy.api.sweep import SweepLabels, sweep
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.writer import store_calibration, write_bundle
from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.checkpoints.family import Family
from dni_deploy.errors import InputError, UsageError, escape_name
from dni_deploy.imaging.frames import Frame, from_network, to_network
from dni_deploy.imaging.image_file import ImageFile, read_frame, write_image
from dni_deploy.imaging.metrics.psnr import psnr
from dni_deploy.imaging.noise import NOISE_SIGMA, add_noise
from dni_deploy.reports.sweep import SweepReport
from dni_deploy.signature import Signature
from dni_deploy.utils.address import as_local_path
from dni_deploy.utils.progress import OptionalProgress, report_progress
from engines.ort_session import bind_initializers, open_cpu_session, run_session

ALPHA_COUNT = 21
"""Alpha from 0 to 1 in steps of 0.05, as in section 3.2 of the paper."""

CALIBRATION_POINTS = 6
"""Alphas at which the statistics of the blends are estimated; more bring nothing (docs/calibration.md)."""

FIRST_ALPHA_COUNT = 5
"""Alphas of the first contact sheet, which is there in seconds."""

DATA_FOLDER = files("dni_deploy") / "data"
OUTPUT_FILES = ("clean.png", "noisy.png", "demo.dni", "sheet.png", "page.html", "psnr.png")
PLOT_FILE = "psnr.png"
MEMBER_LEVELS = (20, 60)


@dataclass(frozen=True)
class DemoReport:
    """What the demo computed in this run.

    Attributes:
        output: The folder.
        sweep: The sweep between N20 and N60 on the image with noise 40.
        noisy_psnr: PSNR before denoising, in dB.
        matched_psnr: PSNR of N40, the network that was trained for this noise, run by itself in ONNX Runtime, in dB.
        bundle_seconds: Time to make the bundle; with `from_checkpoints` that of the export and the calibration.
        seconds: Time for everything.
        files: The files that were written, in the folder.
    """

    output: str
    sweep: SweepReport
    noisy_psnr: float
    matched_psnr: float
    bundle_seconds: float
    seconds: float
    files: tuple[str, ...]

    def format_finding(self) -> str:
        """Formats the finding in one sentence: the best alpha, and what it gains over the better member."""
        return self.sweep.format_finding()

    def to_json(self) -> dict[str, Any]:
        """Returns the report as `--json` prints it."""
        sweep = self.sweep.to_json()
        return {
            "finding": self.format_finding(),
            "best_alpha": sweep["best_alpha"],
            "best_psnr": sweep["best_psnr"],
            "best_is_a_blend": sweep["best_is_a_blend"],
            "gain_db": sweep["gain_db"],
            "noisy_psnr": self.noisy_psnr,
            "n40_psnr": self.matched_psnr,
            "change_ms": sweep["change_ms"],
            "frame_ms": sweep["frame_ms"],
            "bundle_s": self.bundle_seconds,
            "seconds": self.seconds,
            "engine": sweep["engine"],
            "engine_reason": sweep["engine_reason"],
            "output": self.output,
            "files": list(self.files),
            "rows": sweep["rows"],
        }


def demo(
    output: str | os.PathLike[str] = "dni-demo",
    force: bool = False,
    progress: OptionalProgress = None,
    *,
    from_checkpoints: bool = False,
) -> DemoReport:
    """Adds noise to a photograph, sweeps alpha between the denoisers N20 and N60 in one engine, and writes the images.

    The BatchNorm statistics of the blends were estimated on the noisy photograph itself; the clean one is used for PSNR alone.
    Nothing is downloaded: photograph and weights come with the package, and the denoisers were not trained on the photograph.

    Args:
        output: The folder to write to; it is created. It gets clean.png, noisy.png, demo.dni, sheet.png, page.html and, where
            Matplotlib is installed, psnr.png.
        force: Replace those that exist.
        progress: Called with the steps done.
        from_checkpoints: Export and calibrate here, from the checkpoints; needs PyTorch, and a minute.

    Returns:
        What was computed.

    Raises:
        UsageError: One of the files exists.
        UnavailableError: A package is not installed: onnxruntime, or torch for `from_checkpoints`.
    """
    started = time.perf_counter()
    folder = as_local_path(output, "the output")
    _prepare_folder(folder, force)
    total = 1 + FIRST_ALPHA_COUNT + ALPHA_COUNT
    report_progress(progress, 0, total, "making the bundle")
    with as_file(DATA_FOLDER / "astronaut.png") as photograph:
        clean = read_frame(photograph)
    noisy = add_noise(clean)
    write_image(folder / "clean.png", ImageFile(clean), force=force)
    write_image(folder / "noisy.png", ImageFile(noisy), force=force)
    making = time.perf_counter()
    if from_checkpoints:
        bundle = export(read_checkpoints(*MEMBER_LEVELS), folder / "demo.dni", force=force)
        calibrate(bundle, folder / "noisy.png", method="channels", calibration_points=CALIBRATION_POINTS)
    else:
        _write_bundle(folder / "demo.dni", force)
    bundle_seconds = time.perf_counter() - making
    matched_psnr = psnr(_run_matched(Bundle.open(folder / "demo.dni"), noisy), clean)
    has_plot = find_spec("matplotlib") is not None
    labels = SweepLabels(
        f"Noise {NOISE_SIGMA}, denoised between N20 and N60", {f"N{NOISE_SIGMA}, trained for it": matched_psnr}
    )
    done = 1
    for count, page, plot, replace in (
        (FIRST_ALPHA_COUNT, None, None, force),
        (ALPHA_COUNT, folder / "page.html", folder / PLOT_FILE if has_plot else None, True),
    ):
        report = sweep(
            folder / "demo.dni",
            folder / "noisy.png",
            folder / "sheet.png",
            steps=count,
            reference=folder / "clean.png",
            html=page,
            plot=plot,
            force=replace,  # the first sheet is replaced by the whole one
            progress=_shift_progress(progress, done, total),
            labels=labels,
        )
        done += count
    return DemoReport(
        os.fspath(folder),
        report,
        psnr(noisy, clean),
        matched_psnr,
        bundle_seconds,
        time.perf_counter() - started,
        tuple(os.fspath(folder / name) for name in OUTPUT_FILES if name != PLOT_FILE or has_plot),
    )


def read_checkpoints(*levels: int) -> dict[str, Checkpoint]:
    """Reads denoisers of the demo family, by name: N20, N40 and N60 for the sigma that each was trained for."""
    members = {}
    for level in levels:
        with as_file(DATA_FOLDER / "denoise" / f"n{level}.safetensors") as weights:
            members[f"N{level}"] = Checkpoint.read(weights)
    return members


def _shift_progress(progress: OptionalProgress, before: int, total: int) -> OptionalProgress:
    return progress and (lambda done, _, what: report_progress(progress, before + done, total, what))


def _write_bundle(path: Path, force: bool) -> None:
    """Writes the bundle as `export` and `calibrate` do, from what they made."""
    folder = DATA_FOLDER / "denoise"
    facts = json.loads((folder / "bundle.json").read_bytes())
    graph = onnx.load_model_from_string((folder / "graph.onnx").read_bytes())
    bundle = write_bundle(
        path,
        graph,
        Family.from_checkpoints(read_checkpoints(*MEMBER_LEVELS)),
        Signature.from_json(facts["signature"]),
        architecture=facts["architecture"],
        graph_facts=facts["graph_facts"],
        force=force,
    )
    store_calibration(bundle, (folder / "calibration.safetensors").read_bytes())


def _run_matched(bundle: Bundle, frame: Frame) -> Frame:
    """Runs the network that was trained for just this noise: the bundle's graph with that one's own weights."""
    (checkpoint,) = read_checkpoints(NOISE_SIGMA).values()
    weights = {name: checkpoint.tensors[name].astype("float32") for name in bundle.weight_names}
    session = open_cpu_session(bind_initializers(bundle.read_graph(), weights))
    return from_network(run_session(session, to_network(frame, bundle.signature)), frame, bundle.signature)


def _prepare_folder(folder: Path, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{escape_name(folder)} is a file; the demo writes a folder. Nothing was written.")
    existing = [name for name in OUTPUT_FILES if os.path.lexists(folder / name)]
    if existing and not force:
        raise UsageError(f"{escape_name(folder / existing[0])} exists; give --force to replace it, or -o for another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {escape_name(folder)} cannot be made ({error.strerror}).") from error
