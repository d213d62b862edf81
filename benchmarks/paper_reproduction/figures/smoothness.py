"""Smoothness: the largest step between neighbouring alphas against the mean step, for every family."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from benchmarks.paper_reproduction.bench import Bench
from benchmarks.paper_reproduction.drawing import canvas, png
from benchmarks.paper_reproduction.families import FAMILIES
from benchmarks.paper_reproduction.photographs import middle, noisy, resized
from benchmarks.paper_reproduction.section import Goal, Picture, Section, Table

STEPS = 20
SMOOTH = 5.0
"""A jump between two looks would be one step that holds nearly all of the way: a ratio of 20."""


def figure(bench: Bench) -> Section:
    """From the first member to each other one in 20 equal steps of alpha, root mean square change of the output per step."""
    figure, axes = canvas(2, -(-len(FAMILIES) // 2), 4.4, sharex=True, sharey=True)
    rows: list[tuple[str | float, ...]] = []
    goals: list[Goal] = []
    alphas = np.linspace(0, 1, STEPS + 1)
    for place, (family, row) in zip(axes.flat, FAMILIES.items(), strict=False):
        worst = 0.0
        first = row.tuned[0]
        for member in row.tuned[1:]:
            given = probe(bench, family)
            outputs = [bench.between(family, first, member, float(alpha)).infer(given) for alpha in alphas]
            steps = np.array([np.sqrt(np.mean((one.astype(np.float64) - other) ** 2)) for one, other in pairwise(outputs)])
            ratio = float(steps.max() / steps.mean())
            worst = max(worst, ratio)
            rows.append(
                (row.title, f"{first} to {member}", ratio, float(steps.min() / steps.mean()), f"{alphas[steps.argmax()]:.2f}")
            )
            place.plot(alphas[1:] - 0.5 / STEPS, steps / steps.mean(), linewidth=1, label=member)
        goals.append(Goal(f"{row.title}: largest step against the mean step", worst, "at most", SMOOTH))
        place.axhline(1.0, color="grey", linestyle=":", linewidth=1)
        place.set_title(family, fontsize=9)
        place.legend(title=f"{first} to", fontsize=7, title_fontsize=7)
    axes[0, 0].set_ylim(0, None)
    for place in axes[-1]:
        place.set_xlabel("alpha")
    for place in axes[:, 0]:
        place.set_ylabel("step / mean step")
    return Section(
        title="The transition is smooth",
        claim="the effect changes smoothly with alpha, without steps (sections 1 and 4).",
        how=f"every family of this page, from its first member to each other one in {STEPS} equal steps of alpha; the root mean square "
        "change of the network's output on a held-out photograph (for a generator: on fixed latents).",
        goals=tuple(goals),
        pictures=(Picture("smoothness", png(figure), "Change of the output per step of alpha, in mean steps."),),
        tables=(Table(("family", "from, to", "largest / mean", "smallest / mean", "largest at alpha"), tuple(rows)),),
        note="Equal steps of alpha are not equal steps to the eye; the adaptive slider is there for that.",
    )


def probe(bench: Bench, family: str) -> NDArray[np.float32]:
    """A held-out photograph as the network takes it, float32 (1, C, H, W); noisy for a denoiser, small for x4; latents."""
    signature = bench.session(family).signature
    if signature.kind == "latent":
        return np.random.default_rng(0).standard_normal((16, signature.input_channels, 1, 1)).astype(np.float32)
    pixels = middle("astronaut", 192)
    if FAMILIES[family].members.keys() >= {"n20", "n60"}:
        pixels = noisy(pixels, 40)
    if signature.scale > 1:
        pixels = resized(pixels, *(2 * (192 // signature.scale,)))
    planes = pixels.astype(np.float32).transpose(2, 0, 1)[None] / 255
    return np.ascontiguousarray(planes * (signature.high - signature.low) + signature.low, np.float32)
