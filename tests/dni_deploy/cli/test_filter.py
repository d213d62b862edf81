"""filter as a program between pipes: only video on stdout, one sentence on stderr, and it ends when its neighbors end."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import pipe_bundle

pytest.importorskip("onnxruntime", reason="the network runs on ONNX Runtime (extra `cpu`)")

ROOT = Path(__file__).parents[3]
FRAME = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8).tobytes()
RGB = ("--format", "rgb24", "--size", "6x4")
HEADER = b"YUV4MPEG2 W6 H4 F25:1 Ip A1:1 C420jpeg XYSCSS=420JPEG\n"
SECONDS = 60
"""For whatever must end by itself; it takes one or two on an idle machine."""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    folder = tmp_path_factory.mktemp("bundles")
    return {scale: os.fspath(pipe_bundle.write(folder / f"x{scale}.dni", scale).path) for scale in (1, 2)}


def command(bundle: str, *args: str) -> list[str]:
    return [sys.executable, "-m", "dni_deploy", "filter", bundle, "--engine", "onnxruntime", "--threads", "1", *args]


def run(bundle: str, *args: str, data: bytes = b"", **options: Any) -> subprocess.CompletedProcess[bytes]:
    input_options = {} if "stdin" in options else {"input": data}
    return subprocess.run(command(bundle, *args), cwd=ROOT, timeout=SECONDS, capture_output=True, **input_options, **options)


@contextmanager
def running(bundle: str, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        command(bundle, *args), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    try:
        yield child
    finally:
        child.kill()
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        child.wait()


def exactly(pipe: Any, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := pipe.read(count - len(data))):
        data += more
    return data


def test_filter_reads_and_writes_rgb24(bundles: Any) -> None:
    process = run(bundles[1], *RGB, data=FRAME * 5)
    assert (process.returncode, process.stdout) == (0, FRAME * 5)
    assert re.fullmatch(rb"dni-deploy: 5 frames 6x4 to 6x4 in .*, alpha same=1, half=0, onnxruntime\.\n", process.stderr)


def test_filter_reads_and_writes_y4m(bundles: Any) -> None:
    pytest.importorskip("av", reason="y4m needs PyAV (extra `video`)")
    gray = b"FRAME\n" + bytes(range(60, 84)) + bytes([128]) * 12
    process = run(bundles[2], "--no-stamp", "-q", data=HEADER + gray * 3)
    assert process.returncode == 0
    assert process.stderr == b""
    assert process.stdout.startswith(HEADER.replace(b"W6 H4", b"W12 H8") + b"FRAME\n")
    assert len(process.stdout) == len(HEADER) + 1 + 3 * (6 + 12 * 8 * 3 // 2)


def test_json_report_of_filter_goes_to_stderr(bundles: Any) -> None:
    process = run(bundles[1], *RGB, "--json", "--alpha", "half=1", data=FRAME)
    assert len(process.stdout) == len(FRAME)
    report = json.loads(process.stderr)
    assert (report["schema"], report["command"], report["frames"], report["alpha"]) == (
        2,
        "filter",
        1,
        {"same": 0.0, "half": 1.0},
    )


def test_prints_of_other_libraries_go_to_stderr(bundles: Any) -> None:
    """By Python's print and by the file descriptor, as a C library prints."""
    code = (
        "import os, sys; from dni_deploy.cli.main import main; import dni_deploy.session.session as s; before = s.Session._render\n"
        "def render(*given): print('noise'); os.write(1, b'more noise'); return before(*given)\n"
        "s.Session._render = render; sys.exit(main(sys.argv[1:]))"
    )
    args = [sys.executable, "-c", code, *command(bundles[1], *RGB)[3:]]
    process = subprocess.run(args, input=FRAME * 2, cwd=ROOT, timeout=SECONDS, capture_output=True)
    assert (process.returncode, process.stdout) == (0, FRAME * 2)
    assert process.stderr.count(b"noise") == 4


@pytest.mark.parametrize("stalls", [False, True])
def test_a_reader_that_closes_the_pipe_ends_filter_quietly(stalls: bool, bundles: Any) -> None:
    with running(bundles[1], *RGB) as child:
        child.stdin.write(FRAME * 3)
        assert exactly(child.stdout, len(FRAME)) == FRAME
        if stalls:  # no more input arrives while the pipe stays open, and everything received is written
            assert exactly(child.stdout, 2 * len(FRAME)) == FRAME * 2
        child.stdout.close()
        if not stalls:
            with suppress(BrokenPipeError):
                while child.poll() is None:
                    child.stdin.write(FRAME * 100)
        assert child.wait(SECONDS) == 0
        message = child.stderr.read()
        assert b"error" not in message
        assert b"Traceback" not in message
        assert b"closed the pipe" in message


def test_a_closed_stdin_ends_filter_after_the_last_frame(bundles: Any) -> None:
    with running(bundles[1], *RGB) as child:
        child.stdin.write(FRAME * 2)
        assert exactly(child.stdout, 2 * len(FRAME)) == FRAME * 2  # each frame arrives at once, without waiting for the next
        child.stdin.write(FRAME)
        child.stdin.close()
        assert child.stdout.read() == FRAME
        assert child.wait(SECONDS) == 0


@pytest.mark.parametrize(
    ("args", "data", "code", "message", "frames"),
    [
        (RGB, FRAME * 2 + FRAME[:10], 8, "10 bytes were left after 2 whole frames", 2),
        (RGB, FRAME[:10], 3, "10 bytes came, and one frame of 6x4 has 72", 0),
        (RGB, b"", 3, "ended before its first frame", 0),
        (("--format", "rgb24"), FRAME, 2, "give their --size", 0),
        (("--format", "rgb24", "--size", "1000000000x1000000000"), FRAME, 2, "is not WIDTHxHEIGHT", 0),
        (("--format", "rgb24", "--size", "999999999x999999999"), FRAME, 6, "limit", 0),
        ((*RGB, "--alpha", "nobody=1"), FRAME, 2, "nobody", 0),
        ((*RGB, "--alpha", "0:same=1, 1s:same=0"), FRAME, 2, "--fps", 0),
        ((*RGB, "--alpha", "0f:same=1,half=1"), FRAME, 2, "sum to 2", 0),
        ((*RGB, "--alpha", "missing.json"), FRAME, 3, "missing.json", 0),
    ],
)
def test_bad_streams_are_refused(
    args: tuple[str, ...], data: bytes, code: int, message: str, frames: int, bundles: Any
) -> None:
    process = run(bundles[1], *args, data=data)
    assert process.returncode == code
    assert message in process.stderr.decode()
    assert process.stderr.count(b"\n") == 1
    assert len(process.stdout) == frames * len(FRAME)


@pytest.mark.parametrize(
    ("header", "code", "message"),
    [
        (b"", 3, "ended before a video began"),
        (b"\x89PNG\r\n\x1a\n" * 20, 3, "does not begin with YUV4MPEG2"),
        (b"YUV4MPEG2 W0 H4 F25:1\n", 3, "W0"),
        (b"YUV4MPEG2 W999999999 H999999999 F25:1\n", 6, "limit"),
        (b"YUV4MPEG2 W6 H4\n", 2, "--fps"),
        (b"YUV4MPEG2 W6 H4 F25:1 C411\n", 2, "C411"),
    ],
)
def test_headers_with_false_sizes_are_refused(header: bytes, code: int, message: str, bundles: Any) -> None:
    pytest.importorskip("av", reason="y4m needs PyAV (extra `video`)")
    process = run(bundles[1], data=header)
    assert (process.returncode, process.stdout) == (code, b"")
    assert message in process.stderr.decode()
    assert process.stderr.count(b"\n") == 1


def test_stdin_that_is_a_terminal_or_closed_is_refused(bundles: Any) -> None:
    main, terminal = pty.openpty()
    try:
        process = run(bundles[1], *RGB, stdin=terminal)
        assert (process.returncode, b"stdin is a terminal" in process.stderr) == (2, True)
    finally:
        os.close(main)
        os.close(terminal)
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *command(bundles[1], *RGB)], cwd=ROOT, timeout=SECONDS, capture_output=True
    )
    assert (closed.returncode, b"stdin is closed" in closed.stderr) == (2, True)


def test_a_full_disk(bundles: Any) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    with open("/dev/full", "wb") as full:
        process = subprocess.run(
            command(bundles[1], *RGB), input=FRAME, stdout=full, stderr=subprocess.PIPE, cwd=ROOT, timeout=SECONDS
        )
    assert process.returncode == 6
    assert b"No space left" in process.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_sigint_and_sigterm_end_filter_with_their_exit_code(number: int, code: int, bundles: Any) -> None:
    with running(bundles[1], *RGB) as child:
        child.stdin.write(FRAME)
        assert exactly(child.stdout, len(FRAME)) == FRAME
        child.send_signal(number)
        assert child.wait(SECONDS) == code
        assert b"Traceback" not in child.stderr.read()


def by_osc(port: int) -> Callable[[], object]:
    udp = pytest.importorskip("pythonosc.udp_client", reason="OSC needs python-osc (extra `live`)")
    client = udp.SimpleUDPClient("127.0.0.1", port)
    return lambda: client.send_message("/dni/shares", [0.0, 1.0])


TOKEN = "a-token-of-the-tests"


def by_http(port: int) -> Callable[[], object]:
    def put() -> None:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        body = b'{"alpha": {"half": 1.0}}'
        request = urllib.request.Request(f"http://127.0.0.1:{port}/alpha", body, headers, method="PUT")
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200

    return put


@pytest.mark.parametrize("protocol", ["osc", "http"])
def test_side_file_changes_alpha_while_filter_runs(protocol: str, bundles: Any, tmp_path: Path) -> None:
    """Frames are unchanged until the one that the side file names, and halved from there on."""
    if protocol == "osc":
        pytest.importorskip("pythonosc", reason="OSC needs python-osc (extra `live`)")
    log = tmp_path / "show.jsonl"
    with running(
        bundles[1],
        *RGB,
        f"--{protocol}",
        "0",
        *(["--token", TOKEN] if protocol == "http" else []),
        "--alpha-log",
        os.fspath(log),
        "--alpha",
        "same=1",
    ) as child:
        match = re.search(rb"(?:port |127\.0\.0\.1:)(\d+)", child.stderr.readline())
        assert match
        send = (by_osc if protocol == "osc" else by_http)(int(match[1]))
        frames = []
        end = time.monotonic() + 30
        while time.monotonic() < end and (len(frames) < 2 or frames[-1] == frames[0]):
            if frames:
                send()
            child.stdin.write(FRAME)
            frames.append(exactly(child.stdout, len(FRAME)))
        child.stdin.close()
        assert child.wait(SECONDS) == 0
    assert frames[0] == FRAME
    assert frames[-1] == np.rint(np.frombuffer(FRAME, np.uint8) * 0.5).astype(np.uint8).tobytes()
    rows = [json.loads(line) for line in log.read_text().splitlines()[1:]]
    assert [row["shares"] == [0.0, 1.0] for row in rows] == [frame == frames[-1] for frame in frames]
    again = run(bundles[1], *RGB, "--alpha", os.fspath(log), data=FRAME * len(frames))
    assert again.stdout == b"".join(frames)  # the same run, rendered again from its log


def test_a_port_in_use_is_refused(bundles: Any) -> None:
    import socket

    with socket.socket() as busy_socket:
        busy_socket.bind(("127.0.0.1", 0))
        busy_socket.listen()
        process = run(bundles[1], *RGB, "--http", str(busy_socket.getsockname()[1]), data=FRAME)
    assert process.returncode == 9
    assert process.stdout == b""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
@pytest.mark.slow
def test_memory_stays_constant_over_many_frames(bundles: Any) -> None:
    """From frame 1,000 to frame 20,000 the process grows by less than 20 MB."""
    size, count = 64 * 48 * 3, 20_000
    with running(bundles[1], "--format", "rgb24", "--size", "64x48", "--alpha", "sine(period=50f)", "-q") as child:

        def feed() -> None:
            for _ in range(count // 100):
                child.stdin.write(bytes(100 * size))
            child.stdin.close()

        threading.Thread(target=feed, daemon=True).start()

        def resident() -> int:
            return int(Path(f"/proc/{child.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        assert len(exactly(child.stdout, 1000 * size)) == 1000 * size
        early = resident()
        for _ in range(count // 1000 - 2):
            assert len(exactly(child.stdout, 1000 * size)) == 1000 * size
        assert resident() - early < 20_000_000
        assert len(exactly(child.stdout, 1000 * size)) == 1000 * size
        assert child.wait(SECONDS) == 0


FFMPEG = shutil.which("ffmpeg")


@pytest.mark.skipif(not FFMPEG, reason="ffmpeg is not installed")
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuv444p", "gray", "yuvj420p"])
@pytest.mark.slow
def test_filter_between_two_ffmpeg_processes_keeps_the_frames(pixels: str, bundles: Any, tmp_path: Path) -> None:
    """ffmpeg | dni-deploy filter | ffmpeg returns the frames that went in.

    40 dB: the network is the identity; the loss is one conversion to RGB and back, which clips colors outside of RGB.
    """
    pytest.importorskip("av", reason="y4m needs PyAV (extra `video`)")
    source, output_path = tmp_path / "in.y4m", tmp_path / "out.y4m"
    quiet = [FFMPEG or "", "-v", "error", "-nostdin", "-y"]
    still_input = ["-loop", "1", "-i", os.fspath(ROOT / "dni_deploy" / "data" / "astronaut.png"), "-vf", "scale=96:54"]
    subprocess.run(
        [*quiet, *still_input, "-t", "0.4", "-r", "25", "-pix_fmt", pixels, "-strict", "-1", "-f", "yuv4mpegpipe", source],
        check=True,
        timeout=SECONDS,
    )
    with source.open("rb") as video:
        first = subprocess.Popen(command(bundles[1], "-q"), cwd=ROOT, stdin=video, stdout=subprocess.PIPE)
        second = subprocess.run(
            [*quiet[:4], "-y", "-i", "-", "-strict", "-1", "-f", "yuv4mpegpipe", output_path],
            stdin=first.stdout,
            timeout=SECONDS,
        )
        assert (first.wait(SECONDS), second.returncode) == (0, 0)
    compared = subprocess.run(
        [FFMPEG or "", "-hide_banner", "-i", source, "-i", output_path, "-lavfi", "psnr", "-f", "null", "-"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    match = re.search(r"PSNR .*average:(\S+)", compared.stderr)
    assert match, compared.stderr
    assert float(match[1]) > 40
    frames = re.findall(r"frame= *(\d+)", compared.stderr)
    assert frames
    assert int(frames[-1]) == 10
