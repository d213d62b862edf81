"""Makes docs/images/slider.webp: the demo's photograph with noise, and what its network makes of it while alpha moves.

python docs/generate_slider_animation.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import dni_deploy as dni
from dni_deploy.imaging.image_file import read_frame
from dni_deploy.imaging.metrics.psnr import psnr

TARGET = Path(__file__).parent / "images" / "slider.webp"
CROP = (0, 4, 256, 196)
"""Left, top, right and bottom in the photograph, in pixels."""
ENLARGED = (400, 300)
STEPS = 24
FRAME_MS = 70
FOOT_PX = 78
BACKGROUND, TEXT, TRACK, KNOB = "#14181f", "#f2f4f8", "#4a5363", "#ff9f40"


def make_animation(target: Path) -> dict[float, float]:
    """Renders the crop at alphas from 0 to 1, draws the slider below, and writes the pictures back and forth.

    Returns:
        The PSNR of the crop in dB by alpha.
    """
    with tempfile.TemporaryDirectory() as folder:
        dni.demo(folder)
        noisy, clean = (read_frame(Path(folder) / name) for name in ("noisy.png", "clean.png"))
        with dni.open_session(Path(folder) / "demo.dni") as session:
            alphas = [step / STEPS for step in range(STEPS + 1)]
            outputs = {alpha: session(noisy, alpha=alpha) for alpha in alphas}
    left, top, right, bottom = CROP
    part = np.s_[top:bottom, left:right]
    scores = {alpha: psnr(output[part], clean[part]) for alpha, output in outputs.items()}
    pictures = [draw(noisy[part], outputs[alpha][part], alpha, scores[alpha]) for alpha in alphas]
    # Longer at both ends, where the slider turns.
    order = [*pictures, *pictures[-2:0:-1]]
    durations = [FRAME_MS * (6 if alpha in (0.0, 1.0) else 1) for alpha in [*alphas, *alphas[-2:0:-1]]]
    order[0].save(target, save_all=True, append_images=order[1:], duration=durations, loop=0, quality=55, method=6)
    return scores


def draw(before: np.ndarray, after: np.ndarray, alpha: float, score: float) -> Image.Image:
    """Draws the pair of pictures, and below it the slider at alpha."""
    width, height = ENLARGED
    image = Image.new("RGB", (2 * width + 4, height + FOOT_PX), BACKGROUND)
    image.paste(Image.fromarray(before).resize(ENLARGED, Image.Resampling.BICUBIC), (0, 0))
    image.paste(Image.fromarray(after).resize(ENLARGED, Image.Resampling.BICUBIC), (width + 4, 0))
    pen = ImageDraw.Draw(image)
    big, small = ImageFont.load_default(18), ImageFont.load_default(14)
    pen.text((14, height + 14), "in: noise 40", TEXT, big)
    pen.text((14, height + 44), "one running engine, no rebuild", "#aab3c2", small)
    start, end, y = width + 24, 2 * width - 16, height + 26
    pen.line((start, y, end, y), TRACK, 6)
    x = start + alpha * (end - start)
    pen.line((start, y, x, y), KNOB, 6)
    pen.ellipse((x - 10, y - 10, x + 10, y + 10), KNOB)
    pen.text((start, height + 46), "N60: smoother", TEXT, small)
    pen.text((end, height + 46), "N20: more detail", TEXT, small, anchor="ra")
    pen.text(((start + end) / 2, height + 44), f"PSNR {score:.1f} dB", TEXT, big, anchor="ma")
    return image


if __name__ == "__main__":
    found = make_animation(TARGET)
    best = max(found, key=lambda alpha: found[alpha])
    print(f"{TARGET.name}: {TARGET.stat().st_size / 1e6:.2f} MB; best at {best:.2f}, {found[best]:.2f} dB")
