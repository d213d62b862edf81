"""Best alpha: the 0.05 sweep for each noise level, against the net fine-tuned for it and against both ends (section 3.2)."""

from __future__ import annotations

from benchmarks.families import TRAINED_FAMILIES
from benchmarks.paper_reproduction.bench import ReproductionBench
from benchmarks.paper_reproduction.drawing import canvas, png
from benchmarks.paper_reproduction.section import FigureImage, ReproductionGoal, Section, Table
from benchmarks.paper_reproduction.study import INNER_LEVELS, SWEEP_ALPHAS, level_sweep


def figure(bench: ReproductionBench) -> Section:
    """Both nets, N30, N40 and N50, held-out photographs."""
    figure, axes = canvas(1, 2, 3.2)
    demo = level_sweep(bench, "demo", 40)
    rows: list[tuple[str | float, ...]] = []
    goals: list[ReproductionGoal] = []
    for panel, family in zip(axes[0], ("three_layer", "dncnn"), strict=True):
        title = TRAINED_FAMILIES[family].title
        for number, level in enumerate(INNER_LEVELS):
            found = level_sweep(bench, family, level)
            panel.plot(SWEEP_ALPHAS, found.curve, color=f"C{number}", label=f"noise {level}")
            panel.axhline(found.tuned_psnr, color=f"C{number}", linestyle=":", linewidth=1)
            panel.plot([found.best_alpha], [found.best], "o", color=f"C{number}")
            rows.append((title, str(level), found.best_alpha, found.best, found.tuned_psnr, found.curve[0], found.curve[-1]))
            goals += [
                ReproductionGoal(
                    f"{title}, noise {level}: blend at its best alpha minus the net fine-tuned for it",
                    found.to_tuned,
                    "at least",
                    -0.5,
                    "dB",
                ),
                ReproductionGoal(
                    f"{title}, noise {level}: blend at its best alpha minus the better end", found.to_ends, "above", 0.0, "dB"
                ),
            ]
        panel.set(xlabel="share of N60", title=title)
    axes[0, 0].set_ylabel("PSNR, dB (dotted: net fine-tuned for the level)")
    axes[0, 1].legend()
    return Section(
        title="Between the ends there is a good network for every level between",
        claim="the best alpha, found by a sweep from 0 to 1 in steps of 0.05 by PSNR on a test set, gives a network that fits the one "
        "trained for that level (section 3.2).",
        how="mean PSNR over the middle 256x256 of three photographs that no training saw, noise of sigma 30, 40, 50 of 255 clipped to "
        "8 bits; one running engine, 21 alphas.",
        goals=tuple(goals),
        pictures=(
            FigureImage(
                "best-alpha", png(figure), "PSNR along alpha; dots: the best alpha; dotted: the net fine-tuned for the level."
            ),
        ),
        tables=(Table(("net", "noise", "best alpha", "blend, dB", "fine-tuned, dB", "N20, dB", "N60, dB"), tuple(rows)),),
        otherwise="A miss says how far the two ends of this small family are apart: the straight way between them leaves the valley that "
        "both lie in by that much.",
        note="The paper says variance 20 to 60; DnCNN's convention and the visible noise are sigma, which is what is used here. How "
        "the ends are fine-tuned decides how well they blend. DnCNN's here were kept near N20 (frozen BatchNorm statistics, 700 steps "
        "at 1e-4). The demo family in the wheel went farther (moving statistics, 3000 steps at 3e-4), and its blend at "
        f"noise 40 is {demo.best:.2f} dB at alpha {demo.best_alpha:.2f}, {-demo.to_tuned:.2f} dB below its own N40; "
        "re-estimated BatchNorm statistics give most of that back ([calibration.md](calibration.md)), and are what the demo has.",
    )
