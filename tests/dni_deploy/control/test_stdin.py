"""Lines of text from a stream: complete, split, too long, and concurrent; streams that end or never do."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import pytest

from dni_deploy.control.message_handler import MAX_LINE_LENGTH
from dni_deploy.control.stdin import StdinAlphaListener
from tests.dni_deploy.control.listening import THREE, RecordedReports, new_shared_alpha, wait_until


def test_lines_of_a_text_stream_set_alpha() -> None:
    shared_alpha, reports = new_shared_alpha(), RecordedReports()
    listener = StdinAlphaListener(
        shared_alpha, io.StringIO("alpha 0.4\n\n# a comment\nnonsense\r\ngan=0.25\nalpha 0.125"), report=reports
    )
    with listener:
        wait_until(lambda: listener.accepted_count == 3)
    assert shared_alpha.read().requested.values == (0.125, 0.875)
    assert (listener.refused_count, len(reports.sentences)) == (1, 1)


def test_close_does_not_wait_for_a_pipe_that_stays_open() -> None:
    shared_alpha = new_shared_alpha()
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stream:
        listener = StdinAlphaListener(shared_alpha, stream, report=RecordedReports())
        with listener:
            os.write(writing, b"alpha 0.")
            os.write(writing, b"4\nalpha ")
            wait_until(lambda: listener.accepted_count == 1)
            assert shared_alpha.read().requested.values == (0.4, 0.6)
        assert not [
            thread for thread in threading.enumerate() if thread.name == "dni-lines"
        ]  # although the pipe was not closed
    os.close(writing)


def test_lines_of_a_file_set_alpha(tmp_path: Path) -> None:
    (tmp_path / "alphas.txt").write_text("alpha 0.4\nalpha 0.2\n")
    shared_alpha = new_shared_alpha()
    with open(tmp_path / "alphas.txt") as stream, StdinAlphaListener(shared_alpha, stream) as listener:
        wait_until(lambda: listener.accepted_count == 2)
    assert shared_alpha.read().requested.values == (0.2, 0.8)


def test_an_overlong_line_is_skipped_and_the_next_is_read() -> None:
    shared_alpha, reports = new_shared_alpha(), RecordedReports()
    stream = io.BytesIO(b"x" * (5 * MAX_LINE_LENGTH) + b"\nalpha 0.4\n" + b"\xff\xfe\n" + b"alpha 0.2\n")
    with StdinAlphaListener(shared_alpha, stream, report=reports) as listener:
        wait_until(lambda: listener.accepted_count == 2)
    assert listener.refused_count == 2
    assert "characters" in reports.sentences[0]


def test_a_closed_stream_is_reported() -> None:
    reports, stream = RecordedReports(), io.StringIO()
    stream.close()
    with StdinAlphaListener(new_shared_alpha(), stream, report=reports) as listener:
        wait_until(lambda: listener.refused_count == 1)


@pytest.mark.usefixtures("nervous")
def test_concurrent_listeners_never_leave_the_simplex() -> None:
    shared_alpha = new_shared_alpha(THREE)
    sums_read = []
    shared_alpha.subscribe(lambda setting: sums_read.append(sum(setting.requested.values)))
    texts = ["".join(f"{name} {step % 11 / 10}\n" for step in range(500)) for name in THREE]
    listeners = [StdinAlphaListener(shared_alpha, io.StringIO(text)) for text in texts]
    for listener in listeners:
        listener.start()
    wait_until(lambda: shared_alpha.state.sequence == 1500)
    for listener in listeners:
        listener.close()
    assert len(sums_read) == 1500
    assert max(abs(total - 1) for total in sums_read) < 1e-12
