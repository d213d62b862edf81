"""Smoothness: the largest step between neighboring alphas against the mean step, for every family."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from benchmarks.families import TRAINED_FAMILIES
from benchmarks.paper_reproduction.bench import ReproductionBench
from benchmarks.paper_reproduction.drawing import canvas, png
from benchmarks.paper_reproduction.section import FigureImage, ReproductionGoal, Section, Table
from benchmarks.photographs import add_noise, middle, resize_image

ALPHA_STEPS = 20
MAX_STEP_TO_MEAN = 5.0
"""A jump would put nearly the whole change into one step: a ratio of 20."""


def figure(bench: ReproductionBench) -> Section:
    """Measures the RMS change of the output per step, from the first member to each other one in 20 equal steps of alpha."""
    figure, axes = canvas(2, -(-len(TRAINED_FAMILIES) // 2), 4.4, sharex=True, sharey=True)
    rows: list[tuple[str | float, ...]] = []
    goals: list[ReproductionGoal] = []
    alphas = np.linspace(0, 1, ALPHA_STEPS + 1)
    for panel, (family, row) in zip(axes.flat, TRAINED_FAMILIES.items(), strict=False):
        worst = 0.0
        first = row.tuned_members[0]
        for member in row.tuned_members[1:]:
            given = probe(bench, family)
            outputs = [bench.between(family, first, member, float(alpha)).infer(given) for alpha in alphas]
            steps = np.array([np.sqrt(np.mean((one.astype(np.float64) - other) ** 2)) for one, other in pairwise(outputs)])
            ratio = float(steps.max() / steps.mean())
            worst = max(worst, ratio)
            rows.append(
                (row.title, f"{first} to {member}", ratio, float(steps.min() / steps.mean()), f"{alphas[steps.argmax()]:.2f}")
            )
            panel.plot(alphas[1:] - 0.5 / ALPHA_STEPS, steps / steps.mean(), linewidth=1, label=member)
        goals.append(ReproductionGoal(f"{row.title}: largest step against the mean step", worst, "at most", MAX_STEP_TO_MEAN))
        panel.axhline(1.0, color="grey", linestyle=":", linewidth=1)
        panel.set_title(family, fontsize=9)
        panel.legend(title=f"{first} to", fontsize=7, title_fontsize=7)
    axes[0, 0].set_ylim(0, None)
    for panel in axes[-1]:
        panel.set_xlabel("share of the second")
    for panel in axes[:, 0]:
        panel.set_ylabel("step / mean step")
    return Section(
        title="The transition is smooth",
        claim="the effect changes smoothly with alpha, without steps (sections 1 and 4).",
        how=f"every family of this page, from its first member to each other one in {ALPHA_STEPS} equal steps of alpha; "
        "the root mean square "
        "change of the network's output on a held-out photograph (for a generator: on fixed latents).",
        goals=tuple(goals),
        pictures=(FigureImage("smoothness", png(figure), "Change of the output per step of alpha, in mean steps."),),
        tables=(Table(("family", "from, to", "largest / mean", "smallest / mean", "largest at alpha"), tuple(rows)),),
        note="Equal steps of alpha are not equal steps to the eye; the adaptive slider is there for that.",
    )


def probe(bench: ReproductionBench, family: str) -> NDArray[np.float32]:
    """Returns a held-out input of the network, float32 (1, C, H, W): noisy for a denoiser, downscaled for x4, or latents."""
    signature = bench.session(family).signature
    if signature.kind == "latent":
        return np.random.default_rng(0).standard_normal((16, signature.input_channels, 1, 1)).astype(np.float32)
    pixels = middle("astronaut", 192)
    if TRAINED_FAMILIES[family].members.keys() >= {"n20", "n60"}:
        pixels = add_noise(pixels, 40)
    if signature.scale > 1:
        pixels = resize_image(pixels, *(2 * (192 // signature.scale,)))
    planes = pixels.astype(np.float32).transpose(2, 0, 1)[None] / 255
    return np.ascontiguousarray(planes * (signature.high - signature.low) + signature.low, np.float32)
