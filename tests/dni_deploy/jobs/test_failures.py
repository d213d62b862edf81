"""When a job stops because units fail."""

from __future__ import annotations

import pytest

from dni_deploy.errors import UsageError
from dni_deploy.jobs.failures import ALIKE_FAILURES, FailureGuard, MaxFailures
from dni_deploy.jobs.unit import UnitError, UnitRow


def fail(unit: str, message: str) -> UnitRow:
    return UnitRow(unit, "w", error=UnitError("InputError", message, 3))


def stops_at(guard: FailureGuard, messages: list[str | None]) -> int | None:
    """The number of rows after which the job stops; None is a unit that is done."""
    for number, message in enumerate(messages):
        unit = f"out/{number:04}.png"
        row = UnitRow(unit, "w") if message is None else fail(unit, message.format(name=f"in/{number:04}.jpg", number=number))
        if guard.count(row, f"in/{number:04}.jpg") is not None:
            return number + 1
    return None


@pytest.mark.parametrize(
    ("text", "total", "count"),
    [("0", 9, 0), (3, 9, 3), ("10%", 199, 19), ("0%", 9, 0), ("100 %", 9, 9), ("2.5%", 200, 5)],
)
def test_a_limit_is_a_number_or_a_part(text: str | int, total: int, count: int) -> None:
    assert MaxFailures.parse(text).to_count(total) == count


@pytest.mark.parametrize("text", ["", "-1", "101%", "1.5", "some", "%", "5 percent", "1e3", "\u0661"])
def test_other_limits_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="neither a number"):
        MaxFailures.parse(text)


ALIKE = "{name} is not read here ({number} bytes)."


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([ALIKE] * 60, ALIKE_FAILURES),
        (["The device is gone."] * 60, ALIKE_FAILURES),
        ([*[ALIKE] * 49, "{name} is empty.", *[ALIKE] * 60], None),
        ([*[ALIKE] * 49, None, *[ALIKE] * 60], None),
        ([ALIKE] * 49, None),
    ],
)
def test_the_first_units_fail_alike(messages: list[str | None], expected: int | None) -> None:
    assert stops_at(FailureGuard(None, 200), messages) == expected
    assert stops_at(FailureGuard(None, 200, is_resumed=True), messages) is None
    assert stops_at(FailureGuard(MaxFailures.parse("100%"), 200), messages) is None


def test_more_than_are_allowed_stop_the_job() -> None:
    messages: list[str | None] = [None, ALIKE, None, "{name} is empty.", ALIKE]
    assert [stops_at(FailureGuard(MaxFailures.parse(limit), 5), messages) for limit in ("0", "1", "2", "3", "40%")] == [
        2, 4, 5, None, 5,
    ]  # fmt: skip
