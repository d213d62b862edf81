"""Times as they are written: seconds, a clock, or a frame."""

from __future__ import annotations

import pytest

from dni_deploy.errors import UsageError
from dni_deploy.utils.moment import Moment, read_moment


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2.5", Moment(2.5, "seconds")),
        (" 2.5 S ", Moment(2.5, "seconds")),
        ("1:02.5", Moment(62.5, "seconds")),
        ("1:00:02.5", Moment(3602.5, "seconds")),
        ("75f", Moment(75, "frames")),
        ("1e1F", Moment(10, "frames")),
    ],
)
def test_times_are_read(text: str, moment: Moment) -> None:
    assert read_moment(text) == moment


@pytest.mark.parametrize("text", ["", "soon", "1:60", "-1", "1.5f", "1e999", "1:2:3:4", "\u0661"])
def test_text_that_is_not_a_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a"):
        read_moment(text)
