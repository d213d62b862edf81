"""Encoder: odd sides keep every pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dni_deploy.video_io.encoder import pad_size_to_even, pad_to_even
from tests.dni_deploy.api.test_video import psnr
from tests.support.video_clips import Clip, picture, see
from tests.support.video_command import Make


def test_odd_sides_keep_every_pixel(tmp_path: Path, make: Make) -> None:
    source = Clip(width=63, height=47, codec="ffv1", pixels="bgr0", matrix=None, audio=None).write(tmp_path / "in.mkv")
    report = make(source, tmp_path / "out.mp4")
    assert (report.width, report.height) == (64, 48)
    assert any("63x47 is odd: the last column and the last row are repeated" in note for note in report.notes)
    assert psnr(see(tmp_path / "out.mp4").frames[3][:47, :63], picture(3, 63, 47)) > 28
    rgb = picture(0, 5, 3)
    assert np.array_equal(pad_to_even(rgb)[:3, :5], rgb)
    assert np.array_equal(pad_to_even(rgb)[3, :5], rgb[2])
    assert pad_size_to_even(1, 1) == (2, 2)


def test_one_pixel(tmp_path: Path, make: Make) -> None:
    source = Clip(width=1, height=1, codec="ffv1", pixels="bgr0", matrix=None, audio=None).write(tmp_path / "in.mkv")
    make(source, tmp_path / "out.mp4")
    assert see(tmp_path / "out.mp4").frames[0].shape == (2, 2, 3)
