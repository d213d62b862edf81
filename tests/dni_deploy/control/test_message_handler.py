"""Effects of messages on the shared alpha; no message stops the listener."""

from __future__ import annotations

import logging
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.control.message_handler import MAX_LINE_LENGTH, AlphaMessageHandler
from dni_deploy.errors import DniError
from tests.dni_deploy.control.listening import FOUR, RecordedReports, new_shared_alpha


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("alpha 0.4", (0.4, 0.6)),
        ("ALPHA 0.25", (0.25, 0.75)),
        ("alpha psnr=0.3,gan=0.7", (0.3, 0.7)),
        ("psnr=0.3,gan=0.7", (0.3, 0.7)),
        ("gan=0.25", (0.75, 0.25)),
        ("0.5", (0.5, 0.5)),
        ("0.25, 0.75", (0.25, 0.75)),
        ("gan 0.25", (0.75, 0.25)),
        ("GAN 25%", (0.75, 0.25)),
        ("alpha 25%", (0.25, 0.75)),
        ("Gan=25%", (0.75, 0.25)),
    ],
)
def test_a_line_sets_alpha(line: str, values: tuple[float, ...]) -> None:
    shared_alpha = new_shared_alpha()
    assert AlphaMessageHandler(shared_alpha, "lines").set_from_line(line) == 1
    assert shared_alpha.read().requested.values == values


def test_a_line_sets_a_point_or_one_coefficient() -> None:
    shared_alpha = new_shared_alpha(FOUR)
    handler = AlphaMessageHandler(shared_alpha, "lines", ControlPlane.default(FOUR))
    handler.set_from_line("plane 0.25 0.5")
    assert shared_alpha.read().requested.values == (0.375, 0.125, 0.375, 0.125)
    handler.set_from_line("m 1")
    assert shared_alpha.read().requested.values == (1, 0, 0, 0)


@pytest.mark.parametrize(
    "line",
    ["", "alpha", "alpha x", "alpha nan", "alpha 1e999", "alpha 2", "gan -1", "gan x", "gan nan", "x=1", "plane 0 0", "plane",
     "alpha 0.4 0.5", "1,1", "\x00", "alpha " + "1" * MAX_LINE_LENGTH, "quit", "psnr=0.5,psnr=0.5"],
)  # fmt: skip
def test_an_invalid_line_changes_nothing(line: str) -> None:
    shared_alpha, reports = new_shared_alpha(), RecordedReports()
    handler = AlphaMessageHandler(shared_alpha, "lines", report=reports)
    with pytest.raises(DniError) as caught:
        handler.set_from_line(line)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
    for _ in range(3):
        assert isinstance(handler.handle_safely(lambda: handler.set_from_line(line)), DniError)
    assert (handler.accepted_count, handler.refused_count, len(reports.sentences)) == (0, 3, 1)
    assert "alpha stayed as it was" in reports.sentences[0]
    handler.report_refusals()
    assert reports.sentences[1].startswith("3 messages by lines were refused, the last one:")
    assert shared_alpha.state.sequence == 0


def test_an_error_in_a_subscriber_stops_nothing() -> None:
    shared_alpha, reports = new_shared_alpha(), RecordedReports()

    def broken(setting: object) -> None:
        raise KeyError("theirs")

    shared_alpha.subscribe(broken)
    handler = AlphaMessageHandler(shared_alpha, "lines", report=reports)
    assert isinstance(handler.handle_safely(lambda: handler.set_from_line("0.25")), DniError)
    assert "KeyError" in reports.sentences[0]


@given(st.text(max_size=60) | st.text(alphabet=st.sampled_from("alphnegsr=,. 0123456789-+\t"), max_size=30))
def test_any_line_sets_alpha_or_gives_a_one_line_error(line: str) -> None:
    shared_alpha = new_shared_alpha()
    try:
        AlphaMessageHandler(shared_alpha, "lines").set_from_line(line)
        reports = str(shared_alpha.read().requested)
    except DniError as error:
        reports = str(error)
    assert reports.isprintable()


def test_messages_are_logged_at_debug_and_the_first_refusal_as_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    handler = AlphaMessageHandler(new_shared_alpha(), "lines")
    with caplog.at_level(logging.DEBUG, "dni_deploy.control"):
        for line in ("0.25", "nonsense", "nonsense"):
            handler.handle_safely(partial(handler.set_from_line, line))
    levels = [record.levelname for record in caplog.records]
    assert levels == ["DEBUG", "DEBUG", "WARNING", "DEBUG"]
    assert "psnr=0.25, gan=0.75" in caplog.messages[0]
