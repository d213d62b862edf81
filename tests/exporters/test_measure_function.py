"""A function from images to images is measured by running it; networks are in architectures/test_measure_signature.py."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dni_deploy.errors import MismatchError
from dni_deploy.signature import Signature
from exporters.measure_function import measure_function


def enlarge(x: NDArray[np.float32]) -> NDArray[np.float32]:
    if x.shape[1] != 4 or x.shape[2] % 8 or x.shape[3] % 8:
        raise ValueError("wrong shape")
    return x[:, :2].repeat(3, axis=2).repeat(3, axis=3)


def test_channels_scale_and_multiple_are_measured() -> None:
    assert measure_function(enlarge, [3, 1, 4]) == Signature(4, 2, scale=3, multiple=8)


def test_large_multiples_and_large_minimums_are_measured() -> None:
    def run(x: NDArray[np.float32], multiple: int, minimum: int) -> NDArray[np.float32]:
        if any(side % multiple or side < minimum for side in x.shape[2:]):
            raise ValueError("wrong size")
        return x

    assert measure_function(lambda x: run(x, 128, 1), [3]) == Signature(multiple=128)
    assert measure_function(lambda x: run(x, 1, 60), [3]) == Signature()  # raise_minimum finds the 60


def test_the_reason_of_the_first_try_is_named() -> None:
    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        raise ValueError(f"{x.shape[1]} channels do not fit" if x.shape[1] != 3 else "no image")

    with pytest.raises(MismatchError, match=r"on inputs of 3 or 1 channels .* \(no image with 3 channels\)"):
        measure_function(run, [3, 1])
    with pytest.raises(MismatchError, match=r"\(24 x 25 became|\(\d+ x \d+ became"):
        measure_function(lambda x: x[:, :, 1:], [3])
