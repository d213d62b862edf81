"""Runs the whole product on a real photograph: adds noise, exports, calibrates, sweeps alpha, and writes the images."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch

from dni_deploy.api.calibrate import calibrate
from dni_deploy.api.export import export
from dni_deploy.api.sweep import SweepLabels, sweep
from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.errors import InputError, UsageError, escape_name
from dni_deploy.imaging.frames import Frame, from_network, to_network
from dni_deploy.imaging.image_file import ImageFile, read_frame, write_image
from dni_deploy.imaging.metrics.psnr import psnr
from dni_deploy.imaging.noise import NOISE_SIGMA, add_noise
from dni_deploy.reports.sweep import SweepReport
from dni_deploy.utils.progress import OptionalProgress, report_progress
from exporters.architectures.registry import find_architecture

ALPHA_COUNT = 21
"""Alpha from 0 to 1 in steps of 0.05, as in section 3.2 of the paper."""

CALIBRATION_POINTS = 6
"""Alphas at which the statistics of the blends are estimated; more bring nothing (docs/calibration.md)."""

DATA_FOLDER = files("dni_deploy") / "data"
OUTPUT_FILES = ("clean.png", "noisy.png", "demo.dni", "sheet.png", "page.html", "psnr.png")


@dataclass(frozen=True)
class DemoReport:
    """What the demo computed in this run.

    Attributes:
        output: The folder.
        sweep: The sweep between N20 and N60 on the image with noise 40.
        noisy_psnr: PSNR before denoising, in dB.
        matched_psnr: PSNR of N40, the network that was trained for this noise, run by PyTorch from its own checkpoint, in dB.
        export_seconds: Time of the export.
        calibration_seconds: Time of the BatchNorm statistics.
        seconds: Time for everything.
        files: The files that were written, in the folder.
    """

    output: str
    sweep: SweepReport
    noisy_psnr: float
    matched_psnr: float
    export_seconds: float
    calibration_seconds: float
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
            "export_s": self.export_seconds,
            "calibration_s": self.calibration_seconds,
            "seconds": self.seconds,
            "engine": sweep["engine"],
            "engine_reason": sweep["engine_reason"],
            "output": self.output,
            "files": list(self.files),
            "rows": sweep["rows"],
        }


def demo(output: str | os.PathLike[str] = "dni-demo", force: bool = False, progress: OptionalProgress = None) -> DemoReport:
    """Adds noise to a photograph, exports the denoisers N20 and N60, sweeps alpha between them in one engine, writes the
    images.

    The BatchNorm statistics of the blends are estimated on the noisy photograph itself; the clean one is used for PSNR
    alone. Nothing is downloaded: photograph and weights ship with the package, and the denoisers were not trained on the
    photograph.

    Args:
        output: The folder to write to; it is created. It gets clean.png, noisy.png, demo.dni, sheet.png, page.html, psnr.png.
        force: Replace those that exist.
        progress: Called with the steps done.

    Returns:
        What was computed.

    Raises:
        UsageError: One of the files exists.
        UnavailableError: torch or matplotlib is not installed.
    """
    started = time.perf_counter()
    folder = Path(output)
    _prepare_folder(folder, force)
    total = ALPHA_COUNT + 3
    report_progress(progress, 0, total, "exporting N20 and N60")
    with as_file(DATA_FOLDER / "astronaut.png") as photograph:
        clean = read_frame(photograph)
    noisy = add_noise(clean)
    write_image(folder / "clean.png", ImageFile(clean), force=force)
    write_image(folder / "noisy.png", ImageFile(noisy), force=force)
    members = {}
    for level in (20, 60, NOISE_SIGMA):
        with as_file(DATA_FOLDER / "denoise" / f"n{level}.safetensors") as weights:
            members[f"N{level}"] = Checkpoint.read(weights)
    matched = members.pop(f"N{NOISE_SIGMA}")
    exporting = time.perf_counter()
    bundle = export(members, folder / "demo.dni", force=force)
    export_seconds = time.perf_counter() - exporting
    report_progress(progress, 1, total, "estimating the blends' BatchNorm statistics")
    estimated = calibrate(bundle, folder / "noisy.png", method="channels", calibration_points=CALIBRATION_POINTS)
    report_progress(progress, 2, total, "running N40 for comparison")
    noisy_psnr, matched_psnr = psnr(noisy, clean), psnr(_run_checkpoint(matched, noisy), clean)
    report = sweep(
        folder / "demo.dni",
        folder / "noisy.png",
        folder / "sheet.png",
        steps=ALPHA_COUNT,
        reference=folder / "clean.png",
        html=folder / "page.html",
        plot=folder / "psnr.png",
        force=force,
        progress=None if progress is None else lambda done, _, what: progress(3 + done, total, what),
        labels=SweepLabels(f"Noise {NOISE_SIGMA}, denoised between N20 and N60", {"N40, trained for it": matched_psnr}),
    )
    return DemoReport(
        os.fspath(folder),
        report,
        noisy_psnr,
        matched_psnr,
        export_seconds,
        estimated.seconds,
        time.perf_counter() - started,
        tuple(os.fspath(folder / name) for name in OUTPUT_FILES),
    )


def _run_checkpoint(checkpoint: Checkpoint, frame: Frame) -> Frame:
    """One checkpoint's own output, by PyTorch."""
    architecture = find_architecture("auto", checkpoint.tensors)
    net = architecture.build(architecture.canonicalize_tensors(checkpoint.tensors))
    signature = architecture.resolve_signature(net)
    with torch.inference_mode():
        y = net(torch.from_numpy(to_network(frame, signature))).numpy()
    return from_network(y, frame, signature)


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
