"""Semantic (Fig. 10): digits of one latent, thin to bold and upright to slanted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.paper_reproduction.bench import ReproductionBench
from benchmarks.paper_reproduction.drawing import canvas, png, show
from benchmarks.paper_reproduction.measures import ink, lean, rise
from benchmarks.paper_reproduction.section import FigureImage, ReproductionGoal, Section, Table

SWEEP_ALPHAS = tuple(step / 10 for step in range(11))
LATENT_COUNT, SHOWN_LATENTS = 256, 6
LATENT_SEED = 3


def figure(bench: ReproductionBench) -> Section:
    latents = np.random.default_rng(LATENT_SEED).normal(size=(LATENT_COUNT, 32, 1, 1)).astype(np.float32)

    def render_sweep(member: str) -> list[NDArray[np.float32]]:
        return [bench.between("digits", "thin", member, alpha).infer(latents) for alpha in SWEEP_ALPHAS]

    bold, slanted = render_sweep("bold"), render_sweep("slanted")
    inks, leans = np.array([ink(digits) for digits in bold]), np.array([lean(digits) for digits in slanted])
    side_lean, side_ink = np.array([lean(digits) for digits in bold]), np.array([ink(digits) for digits in slanted])
    covered = [_fraction_covered(bold[0], digits) for digits in bold]
    return Section(
        title="One attribute of a digit (Fig. 10)",
        claim="A DCGAN fine-tuned to another attribute: the same latent keeps what it shows, and the attribute moves with "
        "alpha (section 4.4, faces by age and gender).",
        how="A DCGAN of 32 x 32 pixels that draws thin upright digits, fine-tuned to bold ones and to slanted ones; "
        f"{LATENT_COUNT} latents that are the same at every alpha. Ink: the mean of the picture. Lean: by the second moments of "
        "the ink.",
        pictures=(
            FigureImage("digits-bold", _draw_digits(bold), "Rows are latents. From thin (0) to bold (1)."),
            FigureImage("digits-slanted", _draw_digits(slanted), "The same latents, from upright (0) to slanted (1)."),
        ),
        tables=(
            Table(
                (
                    "alpha",
                    "ink, thin - bold",
                    "lean there, degrees",
                    "lean, upright - slanted, degrees",
                    "ink there",
                    "thin's ink still inked, thin - bold",
                ),
                tuple(
                    (
                        alpha,
                        float(inks[k].mean()),
                        float(side_lean[k].mean()),
                        float(leans[k].mean()),
                        float(side_ink[k].mean()),
                        covered[k],
                    )
                    for k, alpha in enumerate(SWEEP_ALPHAS)
                ),
                3,
            ),
        ),
        goals=(
            ReproductionGoal("Thin to bold: mean ink follows alpha (rank correlation)", rise(inks.mean(1)), "at least", 0.99),
            ReproductionGoal("Share of latents where every step adds ink", _fraction_rising(inks), "at least", 0.9),
            ReproductionGoal("Bold's ink by thin's", float(inks[-1].mean() / inks[0].mean()), "at least", 1.5),
            ReproductionGoal("Upright to slanted: mean lean follows alpha", rise(leans.mean(1)), "at least", 0.99),
            ReproductionGoal("Share of latents where every step leans more", _fraction_rising(leans), "at least", 0.9),
            ReproductionGoal("Slanted's lean minus thin's", float((leans[-1] - leans[0]).mean()), "at least", 12.0, "degrees"),
            ReproductionGoal("The digit stays: thin's ink that bold inks too", covered[-1], "at least", 0.9),
        ),
        otherwise="Halfway between two DCGANs the BatchNorm statistics are those of neither, and strokes there come out "
        "paler than a mean of the ends; the measure is of the ink as it comes.",
        note="Faces cannot be shipped; the digits are scikit-learn's, redrawn with a pen of one and of three pixels' radius. "
        "Beside the adversarial loss, the fine-tuning holds the blurred output to what dilation or shear makes of the "
        "ancestor's.",
    )


def _fraction_rising(values: NDArray[np.float64]) -> float:
    """Returns the fraction of latents, values (alphas, latents), that rise at every step."""
    return float((np.diff(values, axis=0) > 0).all(axis=0).mean())


def _fraction_covered(thin: NDArray[np.float32], digits: NDArray[np.float32]) -> float:
    """Returns the fraction of the ink pixels of thin that are ink, within one pixel, in the others."""
    near = ndimage.maximum_filter(digits[:, 0], size=(1, 3, 3))
    return float((near[thin[:, 0] > 0] > 0).mean())


def _draw_digits(frames: list[NDArray[np.float32]]) -> bytes:
    figure, ((panel,),) = canvas(1, 1, 4.9)
    side = frames[0].shape[3]
    show(panel, np.concatenate([np.concatenate([digits[row, 0] for digits in frames], axis=1) for row in range(SHOWN_LATENTS)]))
    panel.set_xticks([side * (column + 0.5) for column in range(len(SWEEP_ALPHAS))], [f"{alpha:g}" for alpha in SWEEP_ALPHAS])
    panel.tick_params(length=0)
    return png(figure)
