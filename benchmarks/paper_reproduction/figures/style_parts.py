"""Style, by parts (Fig. 9): only InstanceNorm fine-tuned, only convolutions, and both."""

from __future__ import annotations

import numpy as np

from benchmarks.paper_reproduction.bench import ReproductionBench
from benchmarks.paper_reproduction.drawing import strip
from benchmarks.paper_reproduction.measures import Pixels, color_distance, texture_distance
from benchmarks.paper_reproduction.section import FigureImage, ReproductionGoal, Section, Table
from benchmarks.paper_reproduction.square import square
from benchmarks.paper_reproduction.styles import STYLE_IMAGES
from benchmarks.photographs import TEST_PHOTOGRAPHS

SHOWN_ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
PART_TITLES = {"norm": "InstanceNorm only", "conv": "convolutions only", "both": "both"}
SUBJECT_NAME, SUBJECT_WINDOW = "astronaut", (slice(0, 150), slice(30, 180))


def figure(bench: ReproductionBench) -> Section:
    scenes = [square(name) for name in TEST_PHOTOGRAPHS]
    target = STYLE_IMAGES["fire_small"]

    def render_photographs(part: str, alpha: float) -> list[Pixels]:
        session = bench.between("style_parts", "mosaic", part, alpha)
        return [session(pixels) for pixels in scenes]

    frames = {part: [render_photographs(part, alpha) for alpha in SHOWN_ALPHAS] for part in PART_TITLES}

    def measure_distances(outputs: list[Pixels]) -> tuple[float, float]:
        return (
            float(np.mean([color_distance(frame, target) for frame in outputs])),
            float(np.mean([texture_distance(frame, target) for frame in outputs])),
        )

    start = measure_distances(frames["both"][0])
    ends = {part: measure_distances(outputs[-1]) for part, outputs in frames.items()}
    progress = {
        part: (_fraction_of_way(start[0], end[0], ends["both"][0]), _fraction_of_way(start[1], end[1], ends["both"][1]))
        for part, end in ends.items()
    }
    subject = TEST_PHOTOGRAPHS.index(SUBJECT_NAME)
    return Section(
        title="Which weights carry colour, which texture (Fig. 9)",
        claim="Fine-tuning InstanceNorm alone changes the colours but not the texture; the convolutions alone, and both "
        "together, change both (section 4.3, mosaic to fire).",
        how="From the mosaic's net to the fire, three times with the same loss, data and steps, with other weights held. "
        f"{', '.join(TEST_PHOTOGRAPHS)} at 256 pixels. The way that each member goes to the fire's colours and to its texture, as a share "
        "of what fine-tuning both goes; the texture is measured on brightness ranks, so no change of colour or tone counts "
        "as one.",
        pictures=(
            FigureImage(
                "style-parts",
                strip(
                    [outputs[subject][SUBJECT_WINDOW] for part in PART_TITLES for outputs in frames[part]],
                    [f"{words}: {alpha:g}" for words in PART_TITLES.values() for alpha in SHOWN_ALPHAS],
                    columns=len(SHOWN_ALPHAS),
                ),
                "From the mosaic (0) to the fire (1): rows by what was fine-tuned.",
            ),
        ),
        tables=(
            Table(
                ("fine-tuned", "colours to the fire", "texture to the fire", "way of the colours", "way of the texture"),
                (
                    ("nothing (mosaic)", *start, 0.0, 0.0),
                    *((words, *ends[part], *progress[part]) for part, words in PART_TITLES.items()),
                ),
                3,
            ),
        ),
        goals=(
            ReproductionGoal("InstanceNorm only: way of the colours", progress["norm"][0], "at least", 0.5),
            ReproductionGoal("InstanceNorm only: way of the texture", progress["norm"][1], "at most", 0.5),
            ReproductionGoal("Convolutions only: way of the colours", progress["conv"][0], "at least", 0.8),
            ReproductionGoal("Convolutions only: way of the texture", progress["conv"][1], "at least", 0.8),
        ),
        otherwise="The three of one loss, with the same steps, need not reach the fire equally well; and in a net of 16 to "
        "64 channels the scales of InstanceNorm choose among few filters, so that they can do more, or less, than in the "
        "paper's.",
    )


def _fraction_of_way(start: float, end: float, whole: float) -> float:
    """Returns the distance from `start` to `end` relative to that from `start` to `whole`."""
    return (start - end) / (start - whole)
