"""Crops are spread evenly over images and places, and always the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dni_deploy.imaging.crops import read_crops
from dni_deploy.imaging.image_file import ImageFile, write_image
from dni_deploy.signature import Signature

torch = pytest.importorskip("torch")


def test_crops_are_spread_over_images_and_positions(tmp_path: Path) -> None:
    place = np.mgrid[:200, :250].astype(np.uint8)
    for name in ("a.png", "b.png", "c.png"):
        write_image(tmp_path / name, ImageFile(np.stack([place[0], place[1], place[0]], axis=2)))
    files = sorted(tmp_path.iterdir())
    signature = Signature(multiple=8)
    parts, sources = read_crops(files, signature, side=60, count=31)
    assert parts.shape == (31, 3, 56, 56)  # the largest multiple of 8 in 60
    assert [source.parts for source in sources] == [11, 10, 10]
    corners = np.rint(parts[:, :2, 0, 0] * 255)
    assert len({tuple(corner) for corner in corners.tolist()}) > 20
    assert corners[:, 0].max() > 100 > 40 > corners[:, 0].min()  # places from top to bottom: 0 to 144
    again, _ = read_crops(files, signature, side=60, count=31)
    assert again.tobytes() == parts.tobytes()
    few, sources = read_crops(files, signature, count=2)
    assert [source.name for source in sources] == ["a.png", "b.png"]
    assert len(few) == 2
