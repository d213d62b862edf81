"""Writes docs/images/alpha-map.png: a photograph with less noise on the head than elsewhere, denoised with an alpha per pixel.

    python docs/generate_alpha_map.py [FOLDER]

Everything ships with the package: the photograph, and the denoisers N20 and N60. Prints the figures of docs/alpha-map.md as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.api.export import export
from dni_deploy.imaging.frames import Frame, round_pixels
from dni_deploy.imaging.image_file import ImageFile, read_image, write_image
from dni_deploy.imaging.metrics.psnr import psnr
from dni_deploy.reports.contact_sheet import draw_contact_sheet
from dni_deploy.session.session import Session, open_session
from dni_deploy.spatial.alpha_map import AlphaMap
from dni_deploy.spatial.plan import plan_map
from dni_deploy.spatial.render import AlphaMapRange, render_map, render_plan

DATA = Path(__file__).parent.parent / "dni_deploy" / "data"
HEAD, REST = 25.0, 50.0
"""Sigma of the noise, of 255, within the head and outside."""
STEPS = 21
EDGE = np.s_[:96, 88:184]
"""A crop with the upper edge of the head, for comparing numbers of levels."""


def make_head_mask(height: int, width: int) -> NDArray[np.float64]:
    """Makes a mask that is 1 within the head and 0 outside, with a transition of 12 pixels."""
    down, across = np.mgrid[:height, :width]
    distance = np.hypot((down - 86) / 84, (across - 132) / 79)
    return np.clip((1 - distance) * 80 / 12 + 0.5, 0, 1)


def add_noise(clean: Frame, mask: NDArray[np.float64]) -> Frame:
    """Adds noise whose sigma goes from REST to HEAD with the mask."""
    sigma = (mask * HEAD + (1 - mask) * REST)[..., None]
    noise = np.random.default_rng(0).normal(0, 1, clean.shape) * sigma
    return np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)


def sweep_alpha(session: Session, noisy: Frame) -> dict[float, Frame]:
    """Renders the image at alpha 0, 0.05, ... 1."""
    frames = {}
    for step in range(STEPS):
        alpha = step / (STEPS - 1)
        session.alpha = alpha
        frames[alpha] = session(noisy)
    return frames


def find_best_alpha(frames: dict[float, Frame], clean: Frame, where: NDArray[np.bool_]) -> float:
    """Returns the alpha with the highest PSNR over these pixels."""
    return max(frames, key=lambda alpha: psnr(frames[alpha][where], clean[where]))


def compare_level_counts(
    session: Session, noisy: Frame, clean: Frame, mask: NDArray[np.float64], low: float, high: float
) -> dict[int, dict[str, float]]:
    """Compares numbers of levels over the soft pixels: difference (of 255) from 129 levels, and PSNR."""
    soft = (mask > 0) & (mask < 1)
    plan = plan_map(AlphaMap.of(mask), mask.shape[0], mask.shape[1], session.signature, levels=129)
    ends = AlphaMapRange.from_options(session, low, high)
    true = render_plan(session, noisy, plan, ends)
    rows = {}
    for levels in (2, 3, 5, 9, 17):
        plan = plan_map(AlphaMap.of(mask), mask.shape[0], mask.shape[1], session.signature, levels=levels)
        output = render_plan(session, noisy, plan, ends)
        differences = np.abs(output - true)[:, soft]
        rows[levels] = {
            "largest": round(float(differences.max()), 2),
            "99 percent": round(float(np.quantile(differences, 0.99)), 3),
            "mean": round(float(differences.mean()), 3),
            "work": round(plan.relative_cost, 2),
            "psnr": round(psnr(round_pixels(output)[soft], clean[soft]), 3),
        }
    return rows


def main(folder: Path) -> dict[str, Any]:
    """Writes the figure and returns its numbers."""
    clean = read_image(DATA / "astronaut.png").rgb
    mask = make_head_mask(*clean.shape[:2])
    noisy = add_noise(clean, mask)
    everywhere, inside, outside = np.ones(mask.shape, np.bool_), mask == 1, mask == 0
    with tempfile.TemporaryDirectory() as work:
        members = {name: DATA / "denoise" / f"{name}.safetensors" for name in ("n20", "n60")}
        with open_session(export(members, Path(work) / "denoise.dni"), threads=1) as session:
            frames = sweep_alpha(session, noisy)
            best_alpha, low, high = (find_best_alpha(frames, clean, where) for where in (everywhere, outside, inside))
            mapped = render_map(session, noisy, mask, black=low, white=high)
            rows = compare_level_counts(session, np.ascontiguousarray(noisy[EDGE]), clean[EDGE], mask[EDGE], low, high)
    gray = np.rint(mask * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    shown = {
        "noisy": (noisy, "noise 25 in the head, 50 around"),
        "map": (gray, f"white: alpha {high:.2f}, black: {low:.2f}"),
        "one alpha": (frames[best_alpha], f"alpha {best_alpha:.2f}, the best for all"),
        "an alpha for each pixel": (mapped.output, f"{len(mapped.levels)} levels, {mapped.plan.relative_cost:.2f} of a frame"),
    }
    numbers: dict[str, Any] = {"best alpha": {"everywhere": best_alpha, "head": high, "rest": low}, "psnr": {}}
    for name, (frame, _) in shown.items():
        if name != "map":
            numbers["psnr"][name] = [round(psnr(frame[w], clean[w]), 2) for w in (everywhere, inside, outside)]
    numbers |= {"levels": len(mapped.levels), "work": round(mapped.plan.relative_cost, 2), "converged": rows}
    labels = [
        (name if name == "map" else f"{name}, {numbers['psnr'][name][0]:.2f} dB", text) for name, (_, text) in shown.items()
    ]
    sheet = draw_contact_sheet([frame for frame, _ in shown.values()], labels, columns=4, best_index=3)
    write_image(folder / "alpha-map.png", ImageFile(sheet), force=True)
    return numbers


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images"), indent=1))
