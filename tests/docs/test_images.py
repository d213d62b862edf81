"""docs/images.md: its commands run as printed, and its table of formats is that of the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from dni_deploy.cli.main import main
from dni_deploy.imaging.image_formats import IMAGE_FORMATS, ImageFormat
from tests.support.frame_session import Dimmer, run_over

PAGE = (Path(__file__).parents[2] / "docs" / "images.md").read_text(encoding="utf-8")


def test_documented_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_over(monkeypatch, Dimmer((1.0, 0.0)))
    monkeypatch.chdir(tmp_path)
    for suffix in ("png", "jpg"):
        Image.new("RGB", (4, 4)).save(f"in.{suffix}")
    [block] = re.findall(r"^```console\n(.*?)^```$", PAGE, re.S | re.M)
    for line in block.splitlines():
        prompt, program, *arguments = shlex.split(line)
        assert (prompt, program, main(arguments)) == ("$", "dni-deploy", 0)


@pytest.mark.parametrize("image_format", IMAGE_FORMATS, ids=lambda image_format: image_format.name)
def test_the_table_of_formats_is_that_of_the_code(image_format: ImageFormat) -> None:
    rows = [[cell.strip() for cell in line.split("|")] for line in PAGE.splitlines() if line.startswith("|")]
    cells = next(cells for cells in rows if cells[1].upper() == image_format.name)
    assert all(suffix in cells[3] for suffix in image_format.suffixes)
    assert (cells[4] == "yes") == image_format.has_transparency
    assert (not cells[6].startswith("no")) == image_format.has_profile
