"""A performance: alpha moved from outside while frames are made, and the same pictures again from the side file."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path

import numpy as np
import pytest

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.log import AlphaLog
from dni_deploy.alpha.source import open_alpha_source
from dni_deploy.alpha.timeline import AlphaSource
from dni_deploy.control.shared_alpha import SharedAlpha
from dni_deploy.control.stdin import StdinAlphaListener
from dni_deploy.session.session import Session
from tests.support.frame_session import Dimmer, opener

MEMBERS = ("a", "b", "c")
FRAMES = 120


class Patient:
    """The cell, but each frame waits until somebody has set it, so that a busy machine has a performance, too."""

    def __init__(self, cell: SharedAlpha) -> None:
        self.cell = cell

    def at(self, seconds: float, frame: int) -> Coefficients:
        assert self.cell.wait_for_change(self.cell.state.sequence, 20) is not None
        return self.cell.at(seconds, frame)


def performed(source: AlphaSource, log: AlphaLog | None = None) -> list[bytes]:
    """The loop of every door: ask, render, stamp."""
    random = np.random.default_rng(0)
    session: Session = opener(Dimmer((1.0, 0.6, 0.1)), MEMBERS)("any")
    pictures = []
    with session:
        for number in range(FRAMES):
            frame = random.integers(0, 256, (12, 16, 3), np.uint8)
            session.alpha = source.at(number / 25, number)
            stamped = session.render(frame)
            pictures.append(stamped.output.tobytes())
            if log is not None:
                log.write(number, number / 25, stamped.generation, stamped.coefficients)
    return pictures


@pytest.mark.usefixtures("nervous")
@pytest.mark.parametrize("slew", [None, 3.0])
def test_a_live_performance_is_rendered_again_exactly(slew: float | None, tmp_path: Path) -> None:
    """Three hands on the cell; what they did, and when it arrived, is only in the side file."""
    cell = SharedAlpha(MEMBERS, Coefficients.one_hot("a", MEMBERS), slew=slew)
    stop = threading.Event()

    def hand(member: str, step: int) -> None:
        count = 0
        while not stop.is_set():
            count += step
            StdinAlphaListener(cell, io.StringIO()).handler.set_coefficient(member, count % 97 / 97)

    hands = [threading.Thread(target=hand, args=pair, daemon=True) for pair in zip(MEMBERS, (3, 7, 11), strict=True)]
    for thread in hands:
        thread.start()
    path = tmp_path / "live.jsonl"
    with AlphaLog(path, MEMBERS, "digest") as log:
        live = performed(Patient(cell), log)
    stop.set()
    for thread in hands:
        thread.join(20)
        assert not thread.is_alive()
    rows = list(AlphaLog.read_entries(path))
    assert len(rows) == FRAMES
    assert len({row.coefficients for row in rows}) > 5  # it was played
    assert [row.generation for row in rows] == sorted(row.generation for row in rows)
    again = open_alpha_source(path, MEMBERS)
    assert performed(again) == live
    with AlphaLog(tmp_path / "again.jsonl", MEMBERS, "digest") as log:
        performed(again, log)
    other = list(AlphaLog.read_entries(tmp_path / "again.jsonl"))
    assert [row.coefficients for row in other] == [row.coefficients for row in rows]


def test_the_export_of_a_timeline_makes_the_same_pictures(tmp_path: Path) -> None:
    for text in ("0:a=1, 2s:0.2,0.3,0.5, 4s:c=1; smooth", "0f:a=1, 50f:b=1; loop", "sine(period=1.5s, from=a, to=c)"):
        source = open_alpha_source(text, MEMBERS)
        path = tmp_path / "export.json"
        path.write_text(json.dumps(source.to_json()))  # type: ignore[attr-defined]
        assert performed(open_alpha_source(path, MEMBERS)) == performed(source)
