"""Makes the pictures of the README: the slider that moves (slider.webp), and the demo's photograph in one row (demo.png).

python docs/generate_demo_pictures.py
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import dni_deploy as dni
from dni_deploy.imaging.image_file import read_frame
from dni_deploy.imaging.metrics.psnr import psnr

FOLDER = Path(__file__).parent / "images"
CROP = (0, 4, 256, 196)
"""Left, top, right and bottom in the photograph, in pixels."""
ENLARGED = (400, 300)
STEPS = 20
SHOWN_STEPS = (0, 6, 12, 20)
"""Of the row; 6 is alpha 0.3, the best of the demo."""
FRAME_MS = 80
FOOT_PX = 78
ROW_SIDE_PX = 190
BACKGROUND, TEXT, FAINT, TRACK, KNOB = "#14181f", "#f2f4f8", "#aab3c2", "#4a5363", "#ff9f40"
BIG, SMALL = ImageFont.load_default(18), ImageFont.load_default(14)


@dataclass(frozen=True)
class Demo:
    """What the demo computes: the photograph with noise, and by alpha the output and its PSNR in dB."""

    noisy: np.ndarray
    outputs: dict[float, np.ndarray]
    scores: dict[float, float]


def run_demo() -> Demo:
    """Runs the demo's network at alphas from 0 to 1."""
    with tempfile.TemporaryDirectory() as folder:
        dni.demo(folder)
        noisy, clean = (read_frame(Path(folder) / name) for name in ("noisy.png", "clean.png"))
        with dni.open_session(Path(folder) / "demo.dni") as session:
            outputs = {step / STEPS: session(noisy, alpha=step / STEPS) for step in range(STEPS + 1)}
    return Demo(noisy, outputs, {alpha: psnr(output, clean) for alpha, output in outputs.items()})


def write_animation(demo: Demo, target: Path) -> None:
    """Writes the slider's way from one end to the other and back."""
    left, top, right, bottom = CROP
    part = np.s_[top:bottom, left:right]
    alphas = list(demo.outputs)
    pictures = [draw_pair(demo.noisy[part], demo.outputs[alpha][part], alpha, demo.scores[alpha]) for alpha in alphas]
    order = [*alphas, *alphas[-2:0:-1]]
    durations = [FRAME_MS * (6 if alpha in (0.0, 1.0) else 1) for alpha in order]  # it rests at both ends
    rest = [*pictures[1:], *pictures[-2:0:-1]]
    pictures[0].save(target, save_all=True, append_images=rest, duration=durations, loop=0, quality=55, method=6)


def draw_pair(before: np.ndarray, after: np.ndarray, alpha: float, score: float) -> Image.Image:
    """Draws the pair of pictures, and below it the slider at alpha."""
    width, height = ENLARGED
    image = Image.new("RGB", (2 * width + 4, height + FOOT_PX), BACKGROUND)
    for left, pixels in ((0, before), (width + 4, after)):
        image.paste(Image.fromarray(pixels).resize(ENLARGED, Image.Resampling.BICUBIC), (left, 0))
    pen = ImageDraw.Draw(image)
    pen.text((14, height + 14), "in: noise 40", TEXT, BIG)
    pen.text((14, height + 44), "one running engine, no rebuild", FAINT, SMALL)
    start, end, y = width + 24, 2 * width - 16, height + 26
    pen.line((start, y, end, y), TRACK, 6)
    x = start + alpha * (end - start)
    pen.line((start, y, x, y), KNOB, 6)
    pen.ellipse((x - 10, y - 10, x + 10, y + 10), KNOB)
    pen.text((start, height + 46), "N60: smoother", TEXT, SMALL)
    pen.text((end, height + 46), "N20: more detail", TEXT, SMALL, anchor="ra")
    pen.text(((start + end) / 2, height + 44), f"PSNR {score:.1f} dB", TEXT, BIG, anchor="ma")
    return image


def write_row(demo: Demo, target: Path) -> None:
    """Writes one row: the input, four alphas, and the PSNR over alpha."""
    alphas = [step / STEPS for step in SHOWN_STEPS]
    best = max(demo.scores, key=lambda alpha: demo.scores[alpha])
    names = {0.0: "N60 alone", 1.0: "N20 alone"}
    panels = [(demo.noisy, "in: noise 40", "")]
    panels += [(demo.outputs[alpha], names.get(alpha, f"alpha {alpha:g}"), f"{demo.scores[alpha]:.2f} dB") for alpha in alphas]
    step, foot = ROW_SIDE_PX + 8, 48
    image = Image.new("RGB", ((len(panels) + 1) * step - 8, ROW_SIDE_PX + foot), BACKGROUND)
    pen = ImageDraw.Draw(image)
    for place, (pixels, name, score) in enumerate(panels):
        image.paste(Image.fromarray(pixels).resize((ROW_SIDE_PX,) * 2, Image.Resampling.LANCZOS), (place * step, 0))
        pen.text((place * step + 4, ROW_SIDE_PX + 5), name, TEXT, SMALL)
        pen.text((place * step + 4, ROW_SIDE_PX + 25), score, KNOB if name == f"alpha {best:g}" else FAINT, SMALL)
    draw_plot(pen, demo.scores, best, (len(panels) * step + 12, 24, (len(panels) + 1) * step - 24, ROW_SIDE_PX - 12))
    pen.text((len(panels) * step + 4, ROW_SIDE_PX + 5), "PSNR over alpha", TEXT, SMALL)
    pen.text((len(panels) * step + 4, ROW_SIDE_PX + 25), f"best at {best:g}: {demo.scores[best]:.2f} dB", KNOB, SMALL)
    image.save(target, optimize=True)


def draw_plot(pen: ImageDraw.ImageDraw, scores: dict[float, float], best: float, box: tuple[int, int, int, int]) -> None:
    """Draws the scores as a line in a box of left, top, right and bottom, with a dot at the best one."""
    left, top, right, bottom = box
    low, high = min(scores.values()), max(scores.values())

    def place(alpha: float) -> tuple[float, float]:
        return left + alpha * (right - left), bottom - (scores[alpha] - low) / (high - low) * (bottom - top)

    pen.line((left, bottom + 6, right, bottom + 6), TRACK, 2)
    pen.line([place(alpha) for alpha in scores], TEXT, 3, joint="curve")
    x, y = place(best)
    pen.ellipse((x - 6, y - 6, x + 6, y + 6), KNOB)


if __name__ == "__main__":
    found = run_demo()
    write_animation(found, FOLDER / "slider.webp")
    write_row(found, FOLDER / "demo.png")
    for name in ("slider.webp", "demo.png"):
        print(f"{name}: {(FOLDER / name).stat().st_size / 1e6:.2f} MB")
