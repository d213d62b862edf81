"""What a calibration of the output's channels would give a blend, on images that its fit has not seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dni_deploy.calibration.output import fit_output
from dni_deploy.compatibility.probes import SampleInput

EndsAndMiddle = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
"""What the first member, the blend halfway and the second member make of one input, (N, C, H, W) each."""


def calibrate_outputs(
    samples: Sequence[SampleInput], images: Sequence[EndsAndMiddle], residual: bool
) -> list[NDArray[np.float32] | None]:
    """Corrects the blend's output on each input by scale and shift of its channels, as `build --calibrate` fits them.

    They are fitted to the mean of the members' outputs on the other inputs that have as much noise.

    Args:
        samples: The inputs.
        images: What the members and the blend make of each.
        residual: Whether the network outputs the noise, and an image is input minus output.

    Returns:
        The blend's image of each input, corrected; None where no other input has as much noise, or a number is not finite.
    """
    outputs = [
        tuple(sample.x - image if residual and image.shape == sample.x.shape else image for image in each)
        for sample, each in zip(samples, images, strict=True)
    ]
    corrected: list[NDArray[np.float32] | None] = []
    for index, sample in enumerate(samples):
        others = [outputs[other] for other, row in enumerate(samples) if other != index and row.noise == sample.noise]
        if not others or not all(np.isfinite(output).all() for each in (*others, outputs[index]) for output in each):
            corrected.append(None)
            continue
        middle = np.concatenate([_flatten(each[1]) for each in others], axis=2)
        target = np.concatenate([_flatten(np.asarray((each[0] + each[2]) / 2, np.float32)) for each in others], axis=2)
        correction = fit_output(middle, target, range(middle.shape[1]))
        scale, shift = (numbers.reshape(1, -1, 1, 1).astype(np.float32) for numbers in correction)
        output = outputs[index][1] * scale + shift
        corrected.append(np.asarray(sample.x - output if residual and output.shape == sample.x.shape else output, np.float32))
    return corrected


def _flatten(output: NDArray[np.float32]) -> NDArray[np.float32]:
    """All numbers of a channel behind one another, (1, C, N * H * W, 1): images of different sizes are fitted together."""
    return np.moveaxis(output, 1, 0).reshape(1, output.shape[1], -1, 1)
