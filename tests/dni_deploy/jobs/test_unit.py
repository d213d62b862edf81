"""Unit in, row out; rows survive torn lines and come back as they were."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from dni_deploy.errors import DniError, LimitError
from dni_deploy.jobs.manifest import append_row, read_rows
from dni_deploy.jobs.unit import UnitError, UnitRow, make_worker_name, run_unit


class Piece(NamedTuple):
    id: str


def work(unit: Piece) -> Sequence[str]:
    if unit.id == "large":
        raise LimitError("too large.")
    if unit.id == "bug":
        raise ZeroDivisionError
    return ["a note"]


def test_an_error_on_purpose_is_a_row_and_a_bug_is_raised() -> None:
    done, failed = (run_unit(Piece(name), work, worker="w", shard="1/2") for name in ("small", "large"))
    assert (done.unit, done.shard, done.notes, done.error) == ("small", "1/2", ("a note",), None)
    assert failed.error is not None
    assert (failed.error.kind, failed.error.message, failed.error.exit_code) == ("LimitError", "too large.", 6)
    assert type(failed.error.to_error()) is LimitError
    assert str(failed.error.to_error()) == "too large."
    with pytest.raises(ZeroDivisionError):
        run_unit(Piece("bug"), work, worker="w")


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [run_unit(Piece(name), work, worker=f"host/{name} x", shard="1/2") for name in ("large", "small")]
    for row in rows:
        append_row(tmp_path, row)
    measured = UnitRow("u", "z", values={"psnrs": [0.1, 1 / 3, float("inf")]})
    append_row(tmp_path, measured)
    append_row(tmp_path, rows[0])
    (tmp_path / "other.jsonl").write_text(json.dumps(rows[0].to_json()))
    assert list(read_rows(tmp_path)) == [rows[0], rows[0], rows[1], measured]


def test_every_error_comes_back_as_what_it_was() -> None:
    classes = [DniError]
    for error in classes:
        classes += error.__subclasses__()
    ours = [error for error in classes[1:] if error.__module__ == "dni_deploy.errors"]
    assert len(ours) == 13
    for error in ours:
        assert type(UnitError.from_error(error("why.")).to_error()) is error
    assert type(UnitError("OfANewerVersion", "why.", 3).to_error()) is DniError


def test_torn_lines_are_left_out(tmp_path: Path) -> None:
    row = UnitRow("u", "w")
    append_row(tmp_path, row)
    path = next(tmp_path.iterdir())
    line = path.read_bytes()
    for torn in (line[: len(line) // 2], b"\xff\xfe\n", b"[]\n", b"{}\n", b'{"unit": 1, "error": 2}\n'):
        path.write_bytes(line + torn)
        assert list(read_rows(tmp_path)) == [row]


def test_two_workers_of_one_process_have_two_names() -> None:
    assert make_worker_name() != make_worker_name()
