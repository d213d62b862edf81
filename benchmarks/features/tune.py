"""Measures how many evaluations `tune` needs to find the best alpha, and how good the alpha chosen without a reference is.

python -m benchmarks.features.tune                    everything, into benchmarks/results/tune.json
python -m benchmarks.features.tune --only clipping    one part of it

Three members (the shipped denoisers N20, N40, N60) on held-out photographs, with noise clipped to 0..255 as in a file. For each case
all 231 points of the 0.05 grid are evaluated, and then `tune` runs as a user would run it.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from importlib.resources import as_file, files
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
from skimage import data

from benchmarks.result_file import describe_commit
from dni_deploy.api.export import export
from dni_deploy.api.tune import tune
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.image_file import ImageFile, write_image
from dni_deploy.imaging.metrics.psnr import psnr
from dni_deploy.session.options import SessionOptions
from dni_deploy.session.session import open_session
from dni_deploy.signature import Signature
from dni_deploy.tuning.search import enumerate_grid, to_coefficients
from dni_deploy.tuning.sure import Infer, SureEstimator
from dni_deploy.utils.atomic_write import write_bytes_atomically
from dni_deploy.utils.hardware import count_cores, cpu_name

ROOT = Path(__file__).resolve().parents[2]
RESULT_PATH = ROOT / "benchmarks" / "results" / "tune.json"
PHOTOGRAPH_NAMES = ("astronaut", "chelsea", "camera")
"""Not used for training: benchmarks/photographs.py."""

NOISE_LEVELS = (25, 35, 50)
"""Between the levels of the members, so that the best blend is inside the family."""

IMAGE_SIDE_PX, GRID_STEPS, NEAR_BEST_DB = 64, 20, 0.02
"""Side of the evaluated crop; steps of the grid; largest distance from the best of the grid that counts as reached."""


def crop_center(name: str) -> Frame:
    """Crops the center of a photograph, RGB."""
    whole = getattr(data, name)()
    whole = np.repeat(whole[..., None], 3, axis=2) if whole.ndim == 2 else whole
    top, left = ((side - IMAGE_SIDE_PX) // 2 for side in whole.shape[:2])
    return np.ascontiguousarray(whole[top : top + IMAGE_SIDE_PX, left : left + IMAGE_SIDE_PX])


def add_noise(clean: Frame, level: int) -> Frame:
    """Adds Gaussian noise of this sigma, rounded and clipped."""
    noise = np.random.default_rng(level).normal(0, level, clean.shape)
    return np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)


def measure_grid(bundle: Bundle, cases: list[tuple[Frame, Frame]]) -> list[dict[tuple[float, ...], float]]:
    """Measures the PSNR of each case at every point of the 0.05 grid; all cases share each change of alpha."""
    psnr_by_point: list[dict[tuple[float, ...], float]] = [{} for _ in cases]
    with open_session(bundle, threads=1) as session:
        for point in enumerate_grid(len(session.members), GRID_STEPS):
            session.alpha = to_coefficients(point)
            for case, (noisy, clean) in zip(psnr_by_point, cases, strict=True):
                case[to_coefficients(point)] = psnr(session(noisy), clean)
    return psnr_by_point


def measure_cases(bundle: Bundle, folder: Path) -> dict[str, Any]:
    """Measures every case: the best of the grid, the evaluations of tune, and the blends chosen without a reference."""
    names = list(product(PHOTOGRAPH_NAMES, NOISE_LEVELS))
    cases = [(add_noise(crop_center(name), level), crop_center(name)) for name, level in names]
    grids = measure_grid(bundle, cases)
    rows: list[dict[str, Any]] = []
    for (name, level), (noisy, clean), points in zip(names, cases, grids, strict=True):
        click.echo(f"{name}, noise {level}", err=True)
        write_image(folder / "noisy.png", ImageFile(noisy), force=True)
        write_image(folder / "clean.png", ImageFile(clean), force=True)
        report = tune(bundle, folder / "noisy.png", reference=folder / "clean.png", options=SessionOptions(threads=1))
        values = [row.values[0] for row in report.evaluations]
        best = max(points.values())
        near = next((index + 1 for index, value in enumerate(values) if value >= best - NEAR_BEST_DB), None)
        rows.append(
            {
                "photograph": name,
                "noise": level,
                "grid_points": len(points),
                "grid_best_db": best,
                "tune_best_db": max(values),
                "evaluations": len(values),
                "evaluations_to_within_0.02_db": near,
                "better_member_db": values[report.find_best_member(0)],
                "alpha": dict(zip(report.members, report.evaluations[report.chosen_index].coefficients, strict=True)),
                "blind_loss_db": {
                    how: max(values) - _tune_without_reference(bundle, folder, noisy, clean, noise)
                    for how, noise in _describe_noise(level).items()
                },
            }
        )
    return {
        "cases": rows,
        "grid_points": len(grids[0]),
        "worst_evaluations_to_within_0.02_db": max_count([row["evaluations_to_within_0.02_db"] for row in rows]),
        "worst_evaluations": max(row["evaluations"] for row in rows),
        "worst_below_grid_db": max(row["grid_best_db"] - row["tune_best_db"] for row in rows),
        "blind_loss_db": {
            how: {
                "median": statistics.median(row["blind_loss_db"][how] for row in rows),
                "worst": max(row["blind_loss_db"][how] for row in rows),
            }
            for how in ("auto", "given")
        },
    }


def _describe_noise(level: int) -> dict[str, float | str]:
    """Returns the noise options that `tune` is run with."""
    return {"auto": "auto", "given": level}


def max_count(counts: list[int | None]) -> int | None:
    """Returns the largest count, or None if a case never came near the best."""
    return None if None in counts else max(count for count in counts if count is not None)


def _tune_without_reference(bundle: Bundle, folder: Path, noisy: Frame, clean: Frame, noise: float | str) -> float:
    """Measures the true PSNR of the blend that tune chooses without the clean image."""
    chosen = tune(bundle, folder / "noisy.png", noise=noise, options=SessionOptions(threads=1))
    with open_session(bundle, alpha=chosen.evaluations[chosen.chosen_index].coefficients, threads=1) as session:
        return psnr(session(noisy), clean)


class TextbookSure(SureEstimator):
    """Textbook SURE, which assumes that the noise was not clipped."""

    def __init__(self, frame: Frame, sigma: float, signature: Signature, pilot: Infer, seed: int = 0) -> None:
        super().__init__(frame, sigma, signature, pilot, seed)
        noisy = np.rint((self._x.astype(np.float64) - signature.low) / self._units_per_level)
        self._unclipped_mean, self._power = noisy, float(np.mean(noisy**2)) - sigma**2
        self._is_unclipped = np.ones(noisy.shape, bool)


def measure_clipping(bundle: Bundle) -> dict[str, Any]:
    """Compares the textbook estimate with ours: PSNR lost by choosing the blend with the smallest estimate, at a known sigma."""
    rows: list[dict[str, Any]] = []
    with open_session(bundle, threads=1) as session:
        for name, level in product(PHOTOGRAPH_NAMES, NOISE_LEVELS):
            clean = crop_center(name)
            noisy = add_noise(clean, level)
            session.alpha = 0.5
            risks = {
                kind.__name__.lower(): kind(noisy, level, session.signature, session.infer)
                for kind in (TextbookSure, SureEstimator)
            }
            true, estimated = [], []
            for step in range(GRID_STEPS + 1):
                session.alpha = step / GRID_STEPS
                true.append(psnr(session(noisy), clean))
                estimated.append([risk.estimate_mean_squared_error(session.infer) for risk in risks.values()])
            chosen = dict(zip(risks, np.argmin(estimated, axis=0), strict=True))
            lacks = {kind: max(true) - true[index] for kind, index in chosen.items()}
            clipped = float(np.mean((noisy == 0) | (noisy == 255)))
            rows.append({"photograph": name, "noise": level, "clipped": clipped, "lacks_db": lacks})
    worst = {kind: max(row["lacks_db"][kind] for row in rows) for kind in ("textbook", "sure")}
    return {"cases": rows, "worst_lacks_db": worst}


def read_shipped_checkpoints(*levels: int) -> dict[str, Checkpoint]:
    """Reads the denoisers of the demo, by name."""
    members = {}
    for level in levels:
        with as_file(files("dni_deploy") / "data" / "denoise" / f"n{level}.safetensors") as weights:
            members[f"N{level}"] = Checkpoint.read(weights)
    return members


@click.command()
@click.option("--only", type=click.Choice(["search", "clipping"]), help="Measure one part and keep the other's result.")
def main(only: str | None) -> None:
    """Measures and writes the result."""
    result = json.loads(RESULT_PATH.read_bytes()) if only and RESULT_PATH.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if only != "clipping":
            result["search"] = measure_cases(export(read_shipped_checkpoints(20, 40, 60), folder / "three.dni"), folder)
        if only != "search":
            result["clipping"] = measure_clipping(export(read_shipped_checkpoints(20, 60), folder / "two.dni"))
    result |= {
        "schema": 1,
        "commit": describe_commit(ROOT),
        "machine": f"{cpu_name()}, {count_cores()} cores",
        "size": IMAGE_SIDE_PX,
    }
    write_bytes_atomically(
        RESULT_PATH, (json.dumps(result, indent=2, allow_nan=False, sort_keys=True) + "\n").encode(), force=True
    )
    click.echo(f"wrote {RESULT_PATH.relative_to(ROOT)}", err=True)


if __name__ == "__main__":
    main()
