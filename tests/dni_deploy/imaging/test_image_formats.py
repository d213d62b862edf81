"""The table of image formats."""

from __future__ import annotations

import pytest

from dni_deploy.errors import UsageError
from dni_deploy.imaging.image_formats import output_format


def test_a_suffix_names_the_format_in_any_case() -> None:
    assert output_format("X.JPEG").name == "JPEG"
    for name in ("a.gif", "a", "a.png.txt"):
        with pytest.raises(UsageError, match="no image format"):
            output_format(name)
