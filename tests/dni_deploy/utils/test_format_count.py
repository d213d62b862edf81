"""A number with its noun."""

from __future__ import annotations

import pytest

from dni_deploy.utils.format_count import format_count


@pytest.mark.parametrize(("number", "text"), [(0, "0 images"), (1, "1 image"), (2, "2 images")])
def test_a_noun_is_plural_unless_its_count_is_one(number: int, text: str) -> None:
    assert format_count(number, "image") == text
