"""Steering and lines: what a message means, and that none of them stops anything."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.control.message_handler import MAX_LINE_LENGTH, AlphaMessageHandler
from dni_deploy.control.stdin import StdinAlphaListener
from dni_deploy.errors import DniError
from tests.dni_deploy.control.listening import FOUR, THREE, Told, new_cell, until


@pytest.mark.parametrize(
    ("line", "shares"),
    [
        ("alpha 0.4", (0.4, 0.6)),
        ("ALPHA 0.25", (0.25, 0.75)),
        ("alpha psnr=0.3,gan=0.7", (0.3, 0.7)),
        ("psnr=0.3,gan=0.7", (0.3, 0.7)),
        ("gan=0.25", (0.75, 0.25)),
        ("0.5", (0.5, 0.5)),
        ("0.25, 0.75", (0.25, 0.75)),
        ("gan 0.25", (0.75, 0.25)),
    ],
)
def test_lines_that_set_alpha(line: str, shares: tuple[float, ...]) -> None:
    cell = new_cell()
    assert AlphaMessageHandler(cell, "lines").set_from_line(line) == 1
    assert cell.read().requested.values == shares


def test_a_plane_and_a_share_of_several() -> None:
    cell = new_cell(FOUR)
    steering = AlphaMessageHandler(cell, "lines", ControlPlane.default(FOUR))
    steering.set_from_line("plane 0.25 0.5")
    assert cell.read().requested.values == (0.375, 0.125, 0.375, 0.125)
    steering.set_from_line("m 1")
    assert cell.read().requested.values == (1, 0, 0, 0)


@pytest.mark.parametrize(
    "line",
    ["", "alpha", "alpha x", "alpha nan", "alpha 1e999", "alpha 2", "gan -1", "gan x", "gan nan", "x=1", "plane 0 0", "plane",
     "alpha 0.4 0.5", "1,1", "\x00", "alpha " + "1" * MAX_LINE_LENGTH, "quit", "psnr=0.5,psnr=0.5"],
)  # fmt: skip
def test_lines_that_do_not(line: str) -> None:
    cell, told = new_cell(), Told()
    steering = AlphaMessageHandler(cell, "lines", report=told)
    with pytest.raises(DniError) as caught:
        steering.set_from_line(line)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
    for _ in range(3):
        assert not steering.handle_safely(lambda: steering.set_from_line(line))
    assert (steering.accepted_count, steering.refused_count, len(told.sentences)) == (0, 3, 1)
    assert "alpha stayed as it was" in told.sentences[0]
    steering.report_refusals()
    assert told.sentences[1].startswith("3 messages by lines were refused, the last one:")
    assert cell.state.sequence == 0


def test_a_subscriber_that_raises_stops_nothing() -> None:
    cell, told = new_cell(), Told()

    def broken(setting: object) -> None:
        raise KeyError("theirs")

    cell.subscribe(broken)
    steering = AlphaMessageHandler(cell, "lines", report=told)
    assert not steering.handle_safely(lambda: steering.set_from_line("0.25"))
    assert "KeyError" in told.sentences[0]


@given(st.text(max_size=60) | st.text(alphabet=st.sampled_from("alphnegsr=,. 0123456789-+\t"), max_size=30))
def test_any_line_sets_alpha_or_gives_one_sentence(line: str) -> None:
    cell = new_cell()
    try:
        AlphaMessageHandler(cell, "lines").set_from_line(line)
        told = str(cell.read().requested)
    except DniError as error:
        told = str(error)
    assert told.isprintable()


def test_a_stream_of_text() -> None:
    cell, told = new_cell(), Told()
    feeder = StdinAlphaListener(cell, io.StringIO("alpha 0.4\n\n# a comment\nnonsense\r\ngan=0.25\nalpha 0.125"), report=told)
    with feeder:
        until(lambda: feeder.accepted_count == 3)
    assert cell.read().requested.values == (0.125, 0.875)
    assert (feeder.refused_count, len(told.sentences)) == (1, 1)


def test_a_pipe_that_stays_open() -> None:
    cell = new_cell()
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stream:
        feeder = StdinAlphaListener(cell, stream, report=Told())
        with feeder:
            os.write(writing, b"alpha 0.")
            os.write(writing, b"4\nalpha ")
            until(lambda: feeder.accepted_count == 1)
            assert cell.read().requested.values == (0.4, 0.6)
        assert not [thread for thread in threading.enumerate() if thread.name == "dni-lines"]  # though nobody closed the pipe
    os.close(writing)


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "alphas.txt").write_text("alpha 0.4\nalpha 0.2\n")
    cell = new_cell()
    with open(tmp_path / "alphas.txt") as stream, StdinAlphaListener(cell, stream) as feeder:
        until(lambda: feeder.accepted_count == 2)
    assert cell.read().requested.values == (0.2, 0.8)


def test_a_line_without_end_costs_no_memory_and_what_follows_counts() -> None:
    cell, told = new_cell(), Told()
    stream = io.BytesIO(b"x" * (5 * MAX_LINE_LENGTH) + b"\nalpha 0.4\n" + b"\xff\xfe\n" + b"alpha 0.2\n")
    with StdinAlphaListener(cell, stream, report=told) as feeder:
        until(lambda: feeder.accepted_count == 2)
    assert feeder.refused_count == 2
    assert "characters" in told.sentences[0]


def test_a_closed_stream_is_told() -> None:
    told, stream = Told(), io.StringIO()
    stream.close()
    with StdinAlphaListener(new_cell(), stream, report=told) as feeder:
        until(lambda: feeder.refused_count == 1)


@pytest.mark.usefixtures("nervous")
def test_two_feeders_of_three_members_leave_the_simplex_to_nobody() -> None:
    cell = new_cell(THREE)
    seen = []
    cell.subscribe(lambda setting: seen.append(sum(setting.requested.values)))
    texts = ["".join(f"{name} {step % 11 / 10}\n" for step in range(500)) for name in THREE]
    feeders = [StdinAlphaListener(cell, io.StringIO(text)) for text in texts]
    for feeder in feeders:
        feeder.start()
    until(lambda: cell.state.sequence == 1500)
    for feeder in feeders:
        feeder.close()
    assert len(seen) == 1500
    assert max(abs(total - 1) for total in seen) < 1e-12
