"""PSNR of frames: known values, its text, its number in JSON, and frames of other sizes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dni_deploy.errors import MismatchError
from dni_deploy.imaging.metrics.psnr import format_db, psnr, to_json_number


def test_psnr_of_known_frames() -> None:
    black, white = np.zeros((2, 3, 3), np.uint8), np.full((2, 3, 3), 255, np.uint8)
    assert psnr(black, white) == 0
    assert psnr(black, black) == math.inf
    assert psnr(black, black + np.uint8(1)) == pytest.approx(20 * math.log10(255))


def test_another_size_is_refused_with_both_sizes() -> None:
    black = np.zeros((2, 3, 3), np.uint8)
    with pytest.raises(MismatchError, match="3x2 and 3x1"):
        psnr(black, black[:1])


def test_identical_frames_are_a_word_in_text_and_null_in_json() -> None:
    assert (format_db(math.inf), to_json_number(math.inf)) == ("identical", None)
    assert (format_db(27.314), to_json_number(27.5), to_json_number(None)) == ("27.31 dB", 27.5, None)
