"""Unit in, row out; rows survive torn lines and come back as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from dni_deploy.errors import LimitError
from dni_deploy.jobs.manifest import append_row, read_rows
from dni_deploy.jobs.unit import UnitOutput, UnitResult, UnitRow, WorkerName, make_worker_name, run_unit


class Piece(NamedTuple):
    id: str


def work(unit: Piece) -> UnitResult:
    if unit.id == "large":
        raise LimitError("too large.")
    if unit.id == "bug":
        raise ZeroDivisionError
    return UnitResult(("a note",), UnitOutput("small.png", 5, "ab"), {"width": 3})


def test_an_error_on_purpose_is_a_row_and_a_bug_is_raised() -> None:
    done, failed = (run_unit(Piece(name), work, WorkerName("w", "1/2")) for name in ("small", "large"))
    assert (done.unit, done.shard, done.notes, done.error) == ("small", "1/2", ("a note",), None)
    assert failed.error is not None
    assert (failed.error.kind, failed.error.message, failed.error.exit_code) == ("LimitError", "too large.", 6)
    with pytest.raises(ZeroDivisionError):
        run_unit(Piece("bug"), work, WorkerName("w"))


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [run_unit(Piece(name), work, WorkerName(f"host/{name} x", "1/2", "cpu", "kind")) for name in ("large", "small")]
    for row in rows:
        append_row(tmp_path, row)
    append_row(tmp_path, rows[0])
    (tmp_path / "other.jsonl").write_text(json.dumps(rows[0].to_json()))
    assert list(read_rows(tmp_path)) == [rows[0], rows[0], rows[1]]


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
