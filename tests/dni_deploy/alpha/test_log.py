"""AlphaLog: a recorded alpha reads back bit for bit, however writing ended."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.log import AlphaLog
from dni_deploy.errors import InputError, LimitError, MismatchError, UsageError

TWO, THREE = ("psnr", "gan"), ("a", "b", "c")


def random_points(count: int, seed: int = 0) -> list[Coefficients]:
    values = np.random.default_rng(seed).dirichlet([1, 1, 1], count)
    return [Coefficients.parse(row.tolist(), THREE) for row in values]


def write_log(path: Path, points: list[Coefficients], start: int = 0) -> Path:
    with AlphaLog(path, THREE, "digest") as log:
        for frame, point in enumerate(points, start):
            log.write(frame, frame / 29.97, frame // 3 + 1, point)
    return path


def test_a_log_reads_back_bit_for_bit(tmp_path: Path) -> None:
    points = random_points(500)
    path = write_log(tmp_path / "live.jsonl", points)
    log_read = AlphaLog.read(path, THREE)
    assert [log_read.at(99.0, frame) for frame in range(500)] == points
    assert log_read.at(0.0, -1) == points[0]
    assert log_read.at(0.0, 10**9) == points[-1]
    rows = list(AlphaLog.read_entries(path))
    assert [(row.frame, row.seconds, row.generation, row.coefficients) for row in rows] == [
        (frame, frame / 29.97, frame // 3 + 1, point) for frame, point in enumerate(points)
    ]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_any_float_round_trips(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    points = [Coefficients.parse(value, TWO) for value in values]
    with AlphaLog(path, TWO, force=True) as log:
        for frame, point in enumerate(points):
            log.write(frame, math.nan, 1, point)
    log_read = AlphaLog.read(path, TWO)
    assert [log_read.at(0.0, frame) for frame in range(len(points))] == points


def test_a_log_is_read_in_another_member_order(tmp_path: Path) -> None:
    path = write_log(tmp_path / "live.jsonl", random_points(3))
    log_read = AlphaLog.read(path, ("c", "a", "b"))
    one, other = random_points(3)[1].values, log_read.at(0, 1).values
    assert other == (one[2], one[0], one[1])
    with pytest.raises(MismatchError, match="for the members a, b, c"):
        AlphaLog.read(path, TWO)


def test_a_missing_frame_has_the_previous_alpha(tmp_path: Path) -> None:
    point = random_points(2)
    with AlphaLog(tmp_path / "gaps.jsonl", THREE) as log:
        log.write(3, 0.1, 1, point[0])
        log.write(7, 0.2, 2, point[1])
    log_read = AlphaLog.read(tmp_path / "gaps.jsonl", THREE)
    assert [log_read.at(0, frame) for frame in (0, 3, 6, 7, 8)] == [point[0], point[0], point[0], point[1], point[1]]


def test_a_truncated_log_reads_up_to_the_cut(tmp_path: Path) -> None:
    points = random_points(6)
    complete = write_log(tmp_path / "live.jsonl", points).read_bytes()
    header = complete.index(b"\n") + 1
    for end in range(len(complete) + 1):
        path = tmp_path / "cut.jsonl"
        path.write_bytes(complete[:end])
        lines = complete[:end].count(b"\n") - 1
        if end < header or lines == 0:
            with pytest.raises(InputError, match=r"not an alpha log|no frame"):
                AlphaLog.read(path, THREE)
            continue
        log_read = AlphaLog.read(path, THREE)
        assert [log_read.at(0, frame) for frame in range(lines)] == points[:lines]
        assert log_read.at(0, lines) == points[lines - 1]


def test_a_killed_writer_leaves_every_frame_it_wrote(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom dni_deploy.alpha.log import AlphaLog\nfrom dni_deploy.alpha.coefficients import Coefficients\n"
        "log = AlphaLog(sys.argv[1], ('psnr', 'gan'))\n"
        "for frame in range(1, 40): log.write(frame, frame / 25, frame, Coefficients.parse(1 / frame, ('psnr', 'gan')))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    path = tmp_path / "killed.jsonl"
    child = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=Path(__file__).parents[3], timeout=60, stdin=subprocess.DEVNULL
    )
    assert child.returncode == -9
    log_read = AlphaLog.read(path, TWO)
    assert [log_read.at(0, frame).values[0] for frame in range(1, 40)] == [1 / frame for frame in range(1, 40)]


@pytest.mark.parametrize("keep", [0, 1, 5, 10, 99])
@pytest.mark.parametrize("tail", [b"", b'{"frame":10,"sec', b"\0" * 20])
def test_a_resumed_log_is_the_same_file(tmp_path: Path, keep: int, tail: bytes) -> None:
    points = random_points(20)
    complete = write_log(tmp_path / "whole.jsonl", points).read_bytes()
    path = write_log(tmp_path / "part.jsonl", points[:10])
    path.write_bytes(path.read_bytes() + tail)
    with AlphaLog.resume(path, THREE, "digest", frames=keep) as log:
        for frame in range(min(keep, 10), 20):
            log.write(frame, frame / 29.97, frame // 3 + 1, points[frame])
    assert path.read_bytes() == complete


def test_entries_after_the_resumed_frame_are_removed(tmp_path: Path) -> None:
    path = write_log(tmp_path / "part.jsonl", random_points(10))
    AlphaLog.resume(path, THREE, "digest", frames=4).close()
    assert path.read_bytes() == write_log(tmp_path / "four.jsonl", random_points(10)[:4]).read_bytes()


def test_resuming_another_log_is_refused(tmp_path: Path) -> None:
    path = write_log(tmp_path / "live.jsonl", random_points(3))
    before = path.read_bytes()
    with pytest.raises(MismatchError):
        AlphaLog.resume(path, TWO, "digest", frames=2)
    with pytest.raises(MismatchError):
        AlphaLog.resume(path, THREE, "other", frames=2)
    assert path.read_bytes() == before
    (tmp_path / "text").write_text("hello\n")
    with pytest.raises(InputError, match="not an alpha log"):
        AlphaLog.resume(tmp_path / "text", THREE, frames=0)
    AlphaLog.resume(tmp_path / "new.jsonl", THREE, frames=5).close()
    assert (tmp_path / "new.jsonl").exists()


def test_an_existing_log_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "live.jsonl"
    path.write_text("mine")
    with pytest.raises(UsageError, match="--force"):
        AlphaLog(path, THREE)
    assert path.read_text() == "mine"
    AlphaLog(path, THREE, force=True).close()
    with pytest.raises(InputError, match="could not be written"):
        AlphaLog(tmp_path / "absent" / "live.jsonl", THREE)


def test_frame_numbers_must_rise(tmp_path: Path) -> None:
    point = random_points(1)[0]
    log = AlphaLog(tmp_path / "live.jsonl", THREE)
    log.write(5, 0.0, 1, point)
    for frame in (5, 4):
        with pytest.raises(UsageError, match="has frame 5"):
            log.write(frame, 0.0, 1, point)
    with pytest.raises(UsageError, match="is for a, b, c"):
        log.write(6, 0.0, 1, Coefficients.parse(0.5, TWO))
    log.close()
    log.close()
    with pytest.raises(InputError, match="closed"):
        log.write(7, 0.0, 1, point)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_a_limit_error() -> None:
    with pytest.raises(LimitError, match="could not be written"):
        AlphaLog("/dev/full", THREE, force=True)


HEADER = b'{"format":"dni-deploy alpha log","schema":1,"members":["psnr","gan"],"bundle":""}\n'
LINE = b'{"frame":%d,"seconds":0.0,"generation":1,"shares":[0.5,0.5]}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an alpha log"),
        (b"{}\n", "not an alpha log"),
        (b"\xff\xfe\n", "not an alpha log"),
        (HEADER.replace(b'"schema":1', b'"schema":2'), "schema 2"),
        (HEADER.replace(b'"psnr","gan"', b"3"), "not an alpha log"),
        (HEADER, "no frame"),
        (HEADER + b"x\n" + LINE % 1, "line 2: it is not a frame"),
        (HEADER + LINE % 1 + LINE % 1 + LINE % 2, "line 3: frame 1 comes after frame 1"),
        (HEADER + LINE % 0 + LINE.replace(b"%d", b"1.5") + LINE % 2, "line 3: its frame is not"),
        (HEADER + LINE % 0 + LINE.replace(b"%d", b"true") + LINE % 2, "line 3: its frame is not"),
        (HEADER + (LINE % 0).replace(b"0.5,0.5", b"NaN,0.5") + LINE % 2, "line 2: .*finite"),
        (HEADER + (LINE % 0).replace(b"0.5,0.5", b"0.5") + LINE % 2, "line 2: .*1 numbers"),
        (HEADER + (LINE % 0).replace(b"0.5,0.5", b'"0.5",0.5') + LINE % 2, "line 2: its shares"),
        (HEADER + (LINE % 0).replace(b"0.5,0.5", b"0.5,0.9") + LINE % 2, "line 2: .*sum to 1.4"),
        (HEADER + (LINE % 0).replace(b'"generation":1', b'"generation":-1') + LINE % 2, "line 2: its generation"),
        (HEADER + b"[" * 70_000 + b"\n" + LINE % 0, "line 2"),
        (HEADER + LINE % 0 + b"\n" + LINE % 1, "line 3: it is not a frame"),
    ],
)
def test_damaged_logs_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        AlphaLog.read(path, TWO)
    assert str(caught.value).isprintable()


def test_other_files_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent", "nul\0"):
        with pytest.raises(InputError, match="alpha log"):
            AlphaLog.read(path, TWO)
