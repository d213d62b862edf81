"""demo: the whole way on a real photograph: noise it, export, recalibrate, open an engine, sweep alpha, show it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dni_deploy.api.export import export
from dni_deploy.api.recalibrate import recalibrate
from dni_deploy.api.sweep import sweep
from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.errors import InputError, UsageError, shown
from dni_deploy.imaging.frames import Frame, from_network, to_network
from dni_deploy.imaging.image_file import Picture, read_picture, write_picture
from dni_deploy.imaging.metrics.psnr import psnr
from dni_deploy.reports.sweep import SweepReport
from dni_deploy.utils.progress import MaybeProgress, tell
from exporters.architectures import find

NOISE = 40
"""Sigma of the added noise, of 255. The paper says variance 40; its pictures and DnCNN's convention are sigma."""

STEPS = 21
"""Alpha from 0 to 1 in steps of 0.05, as in section 3.2 of the paper."""

KNOTS = 6
"""Alphas at which the statistics of the blends are estimated; more bring nothing (docs/recalibration.md)."""

DATA = files("dni_deploy") / "data"
FILES = ("clean.png", "noisy.png", "demo.dni", "sheet.png", "page.html", "psnr.png")


@dataclass(frozen=True)
class DemoReport:
    """What the demo found; every number is computed in this run.

    sweep          the sweep between N20 and N60 on the picture with noise 40.
    noisy_psnr     the picture before denoising, dB.
    matched_psnr   N40, the network that was trained for just this noise, computed by PyTorch from its own checkpoint, dB.
    export_seconds, recalibration_seconds, seconds   time of the export, of the BatchNorm statistics, and of everything.
    files          what was written, in the folder `output`.
    """

    output: str
    sweep: SweepReport
    noisy_psnr: float
    matched_psnr: float
    export_seconds: float
    recalibration_seconds: float
    seconds: float
    files: tuple[str, ...]

    def finding(self) -> str:
        """One sentence for people: the best alpha, and what it gains over the better end."""
        return self.sweep.finding()

    def to_json(self) -> dict[str, Any]:
        found = self.sweep.to_json()
        return {
            "finding": self.finding(),
            "best_alpha": found["best_alpha"],
            "best_psnr": found["best_psnr"],
            "best_is_a_blend": found["best_is_a_blend"],
            "gain_db": found["gain_db"],
            "noisy_psnr": self.noisy_psnr,
            "n40_psnr": self.matched_psnr,
            "change_ms": found["change_ms"],
            "frame_ms": found["frame_ms"],
            "export_s": self.export_seconds,
            "recalibration_s": self.recalibration_seconds,
            "seconds": self.seconds,
            "engine": found["engine"],
            "engine_why": found["engine_why"],
            "output": self.output,
            "files": list(self.files),
            "rows": found["rows"],
        }


def demo(output: str | os.PathLike[str] = "dni-demo", force: bool = False, progress: MaybeProgress = None) -> DemoReport:
    """Noise a photograph, export the denoisers N20 and N60, sweep alpha between them in one running engine, write the pictures.

    The BatchNorm statistics of the blends are estimated on the noisy photograph itself; the clean one is used for PSNR alone.
    Writes into the folder `output`, which is made: clean.png, noisy.png, demo.dni, sheet.png, page.html, psnr.png. Needs no
    network: photograph and weights ship with the package, and the photograph is none that they were trained on.
    Raises UsageError if one of these exists and `force` is off, EnvironmentProblem without torch or matplotlib.
    """
    started = time.perf_counter()
    folder = Path(output)
    _prepare(folder, force)
    total = STEPS + 3
    tell(progress, 0, total, "exporting N20 and N60")
    with as_file(DATA / "astronaut.png") as photograph:
        clean = read_picture(photograph).rgb
    noisy = noised(clean)
    write_picture(folder / "clean.png", Picture(clean), force=force)
    write_picture(folder / "noisy.png", Picture(noisy), force=force)
    members = {}
    for level in (20, 60, NOISE):
        with as_file(DATA / "denoise" / f"n{level}.safetensors") as weights:
            members[f"N{level}"] = Checkpoint.read(weights)
    matched = members.pop(f"N{NOISE}")
    exporting = time.perf_counter()
    bundle = export(members, folder / "demo.dni", force=force)
    export_seconds = time.perf_counter() - exporting
    tell(progress, 1, total, "estimating the blends' BatchNorm statistics")
    estimated = recalibrate(bundle, folder / "noisy.png", knots=KNOTS)
    tell(progress, 2, total, "running N40 for comparison")
    noisy_psnr, matched_psnr = psnr(noisy, clean), psnr(_alone(matched, noisy), clean)
    report = sweep(
        folder / "demo.dni",
        folder / "noisy.png",
        folder / "sheet.png",
        steps=STEPS,
        reference=folder / "clean.png",
        html=folder / "page.html",
        plot=folder / "psnr.png",
        force=force,
        progress=None if progress is None else lambda done, _, what: progress(3 + done, total, what),
        title=f"Noise {NOISE}, denoised between N20 and N60",
        levels={"N40, trained for it": matched_psnr},
    )
    return DemoReport(
        os.fspath(folder),
        report,
        noisy_psnr,
        matched_psnr,
        export_seconds,
        estimated.seconds,
        time.perf_counter() - started,
        tuple(os.fspath(folder / name) for name in FILES),
    )


def noised(clean: Frame, seed: int = 0) -> Frame:
    """Gaussian noise of sigma NOISE added, rounded and clipped to 0..255, as a picture file has it."""
    noise = np.random.default_rng(seed).normal(0, NOISE, clean.shape)
    return np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)


def _alone(checkpoint: Checkpoint, frame: Frame) -> Frame:
    """One checkpoint's own output, by PyTorch."""
    architecture = find("auto", checkpoint.tensors)
    net = architecture.build(architecture.canonical(checkpoint.tensors))
    signature = architecture.signature(net)
    with torch.inference_mode():
        y = net(torch.from_numpy(to_network(frame, signature))).numpy()
    return from_network(y, frame, signature)


def _prepare(folder: Path, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{shown(folder)} is a file; the demo writes a folder. Nothing was written.")
    existing = [name for name in FILES if os.path.lexists(folder / name)]
    if existing and not force:
        raise UsageError(f"{shown(folder / existing[0])} exists; give --force to replace it, or -o for another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {shown(folder)} cannot be made ({error.strerror}).") from error
