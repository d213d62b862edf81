"""filter in this process: its input, its output and its messages, with a minimal engine."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dni_deploy.alpha.log import AlphaLog
from dni_deploy.api.filter import FilterReport, filter
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.control.open_listeners import ListenerOptions
from dni_deploy.errors import (
    DniError,
    EngineError,
    InputError,
    LimitError,
    MismatchError,
    PartialResultError,
    UnavailableError,
    UsageError,
)
from dni_deploy.signature import Signature
from tests.support import pipe_bundle
from tests.support.frame_session import Dimmer, opener

SIZE = (6, 4)
INPUT_FRAMES = np.random.default_rng(0).integers(0, 256, (5, SIZE[1], SIZE[0], 3), np.uint8)
HEADER = b"YUV4MPEG2 W6 H4 F25:1 Ip A1:1 C444 XCOLORRANGE=FULL\n"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return {scale: pipe_bundle.write(folder / f"x{scale}.dni", scale) for scale in (1, 2)}


@pytest.fixture
def dimmer(monkeypatch: pytest.MonkeyPatch) -> Any:
    def put(scale: int = 1, **options: Any) -> Dimmer:
        engine = Dimmer((1.0, 0.5), scale, **options)
        monkeypatch.setattr("dni_deploy.api.filter.open_session", opener(engine, pipe_bundle.MEMBERS))
        return engine

    return put


def rgb(bundle: Bundle, data: bytes = INPUT_FRAMES.tobytes(), **options: Any) -> tuple[FilterReport, np.ndarray]:
    sink = io.BytesIO()
    report = filter(bundle, io.BytesIO(data), sink, **{"format": "rgb24", "size": "6x4", **options})
    scale = bundle.signature.scale
    return report, np.frombuffer(sink.getvalue(), np.uint8).reshape(-1, SIZE[1] * scale, SIZE[0] * scale, 3)


def test_filter_reads_and_writes_rgb24(bundles: Any, dimmer: Any) -> None:
    engine = dimmer()
    report, out = rgb(bundles[1])
    assert np.array_equal(out, INPUT_FRAMES)
    assert (report.frames, report.size, report.output_size, report.closed_by, report.rate) == (5, "6x4", "6x4", "source", None)
    assert engine.closed == 1


def test_alpha_follows_a_timeline(bundles: Any, dimmer: Any) -> None:
    engine = dimmer()
    report, out = rgb(bundles[1], alpha="0:same=1, 0.16s:half=1", fps="25")
    for frame, factor in enumerate((1.0, 0.875, 0.75, 0.625, 0.5)):
        assert np.abs(out[frame] - INPUT_FRAMES[frame] * factor).max() <= 0.5 + 1e-3  # rounded once
    assert report.alpha == {"same": 0.0, "half": 1.0}
    assert report.changes == 4
    assert engine.refits == 5


def test_filter_writes_frames_at_the_network_scale(bundles: Any, dimmer: Any) -> None:
    dimmer(2)
    report, out = rgb(bundles[2])
    assert report.output_size == "12x8"
    assert np.array_equal(out, INPUT_FRAMES.repeat(2, axis=1).repeat(2, axis=2))


def test_a_side_file_can_be_replayed(bundles: Any, dimmer: Any, tmp_path: Path) -> None:
    dimmer()
    log = tmp_path / "show.jsonl"
    _, out = rgb(bundles[1], alpha="0f:same=0.3, 4f:same=0.7", alpha_log=log)
    rows = list(AlphaLog.read_entries(log))
    assert [row.frame for row in rows] == list(range(5))
    assert [row.generation for row in rows] == [1, 2, 3, 4, 5]
    dimmer()
    _, again = rgb(bundles[1], alpha=log)
    assert np.array_equal(out, again)
    with pytest.raises(UsageError, match="exists; give --force"):
        rgb(bundles[1], alpha_log=log)


def y4m(bundle: Bundle, data: bytes, **options: Any) -> tuple[FilterReport, bytes]:
    sink = io.BytesIO()
    return filter(bundle, io.BytesIO(data), sink, **options), sink.getvalue()


def y4m_frames(count: int = 3) -> bytes:
    """Gray ramps in 4:4:4, which swscale converts to RGB and back without loss."""
    frames = [np.concatenate([np.arange(24, dtype=np.uint8) * 7 + n, np.full(48, 128, np.uint8)]) for n in range(count)]
    return b"".join(b"FRAME Xkept\n" + frame.tobytes() for frame in frames)


def test_filter_reads_and_writes_y4m(bundles: Any, dimmer: Any) -> None:
    pytest.importorskip("av", reason="y4m needs PyAV (extra `video`)")
    dimmer()
    notes: list[str] = []
    report, out = y4m(bundles[1], HEADER + y4m_frames(), stamp=False, note=notes.append)
    assert out == HEADER + y4m_frames()
    assert (report.frames, report.rate, report.size) == (3, "25", "6x4")
    assert len(notes) == 1
    assert "taken as BT.601" in notes[0]


@pytest.mark.parametrize("format", ["y4m", "rgb48", "bgra"])
def test_deep_frames_and_transparency_go_through(format: str, bundles: Any, dimmer: Any) -> None:
    """Samples of 16 bits reach the network as such: half of an odd number is not rounded to 8 bits."""
    dimmer()
    random = np.random.default_rng(1)
    options: dict[str, Any] = {"alpha": "half=1", "stamp": False}
    if format == "y4m":
        pytest.importorskip("av", reason="y4m needs PyAV (extra `video`)")
        head = b"YUV4MPEG2 W6 H4 F25:1 Cmono16 XCOLORRANGE=FULL\n"
        pixels = random.integers(0, 1 << 16, (4, 6)).astype("<u2")
        _, out = y4m(bundles[1], head + b"FRAME\n" + pixels.tobytes(), **options)
        result = np.frombuffer(out[len(head) + len(b"FRAME\n") :], "<u2").reshape(pixels.shape)
    else:
        shape, dtype = ((4, 6, 3), "<u2") if format == "rgb48" else ((4, 6, 4), "u1")
        pixels = random.integers(0, 1 << 16 if format == "rgb48" else 256, shape).astype(dtype)
        _, out = y4m(bundles[1], pixels.tobytes(), format=format, size="6x4", **options)
        result = np.frombuffer(out, dtype).reshape(shape)
    expected = pixels * 0.5
    if format == "bgra":
        expected[..., 3] = pixels[..., 3]
    assert np.abs(result - expected).max() <= 0.5 + 1e-2


def test_y4m_carries_the_stamp(bundles: Any, dimmer: Any) -> None:
    pytest.importorskip("av", reason="y4m needs PyAV (extra `video`)")
    dimmer()
    _, out = y4m(bundles[1], HEADER + y4m_frames(), alpha="0f:same=1, 2f:same=0")
    assert re.findall(rb"FRAME[^\n]*", out) == [
        b"FRAME Xkept XDNI=1:1,0",
        b"FRAME Xkept XDNI=2:0.5,0.5",
        b"FRAME Xkept XDNI=3:0,1",
    ]


def test_y4m_header_has_the_scaled_size(bundles: Any, dimmer: Any) -> None:
    pytest.importorskip("av", reason="y4m needs PyAV (extra `video`)")
    dimmer(2)
    report, out = y4m(bundles[2], HEADER + y4m_frames(), stamp=False)
    assert out.startswith(HEADER.replace(b"W6 H4", b"W12 H8") + b"FRAME Xkept\n")
    assert len(out) == len(HEADER) + 1 + 3 * (len(b"FRAME Xkept\n") + 12 * 8 * 3)
    luma = np.frombuffer(out[len(HEADER) + 1 + len(b"FRAME Xkept\n") :][:96], np.uint8).reshape(8, 12)
    assert np.array_equal(luma, (np.arange(24, dtype=np.uint8) * 7).reshape(4, 6).repeat(2, 0).repeat(2, 1))
    assert report.output_size == "12x8"


def test_color_matrix_depends_on_the_height_of_each_side(bundles: Any, dimmer: Any) -> None:
    pytest.importorskip("av", reason="y4m needs PyAV (extra `video`)")
    dimmer(2)
    notes: list[str] = []
    header = b"YUV4MPEG2 W2 H360 F25:1 C444\n"
    for matrix in ("auto", "601"):
        _, out = y4m(
            bundles[2], header + b"FRAME\n" + bytes([100]) * 720 + bytes([90]) * 1440, matrix=matrix, note=notes.append
        )
        frame = np.frombuffer(out[-4 * 720 * 3 :], np.uint8).reshape(3, -1)
        moved = abs(int(frame[0, 0]) - 100)
        assert (moved > 5) == (matrix == "auto")  # a colored patch has another luma in BT.709
    assert notes == [
        "y4m carries no color matrix; by the number of lines it is taken as BT.601 and written as BT.709 (--matrix)."
    ]


def test_a_missing_frame_rate_is_refused(bundles: Any, dimmer: Any) -> None:
    pytest.importorskip("av", reason="y4m needs PyAV (extra `video`)")
    dimmer()
    header = HEADER.replace(b" F25:1", b"")
    with pytest.raises(UsageError, match="has no frame rate; give it with --fps"):
        y4m(bundles[1], header + y4m_frames())
    _, out = y4m(bundles[1], header + y4m_frames(), fps="24")
    assert out.startswith(header.strip() + b" F24:1\n")
    with pytest.raises(UsageError, match="says 25 frames per second and --fps says 24"):
        y4m(bundles[1], HEADER + y4m_frames(), fps="24")


def test_whole_frames_of_a_truncated_stream_are_written(bundles: Any, dimmer: Any) -> None:
    engine = dimmer()
    sink = io.BytesIO()
    with pytest.raises(PartialResultError, match="10 bytes were left after 3 whole frames"):
        filter(bundles[1], io.BytesIO(INPUT_FRAMES.tobytes()[: 3 * 72 + 10]), sink, format="rgb24", size="6x4")
    assert sink.getvalue() == INPUT_FRAMES[:3].tobytes()
    assert engine.closed == 1


def test_an_engine_failure_is_reported(bundles: Any, dimmer: Any) -> None:
    engine = dimmer(broken=6)
    with pytest.raises(EngineError, match="NaN"):
        rgb(bundles[1])
    assert engine.closed == 1


class Leaving(io.BytesIO):
    """A stream whose reader closes the pipe after `room` bytes."""

    room = 100

    def write(self, data: Any) -> int:
        if len(self.getvalue()) >= self.room:
            raise BrokenPipeError(32, "Broken pipe")
        return super().write(data)


def test_a_reader_that_closes_the_pipe_is_reported(bundles: Any, dimmer: Any) -> None:
    dimmer()
    report = filter(bundles[1], io.BytesIO(INPUT_FRAMES.tobytes()), Leaving(), format="rgb24", size="6x4")
    assert (report.frames, report.closed_by) == (2, "sink")


def test_live_alpha_applies_between_frames(bundles: Any, dimmer: Any) -> None:
    from dni_deploy.alpha.coefficients import Coefficients
    from dni_deploy.control.shared_alpha import SharedAlpha

    dimmer()
    cell = SharedAlpha(pipe_bundle.MEMBERS, Coefficients.one_hot("same", pipe_bundle.MEMBERS))

    class Turning(io.BytesIO):
        """Changes the shared alpha when the third frame is read."""

        reads = 0

        def readinto(self, buffer: Any) -> int:
            self.reads += 1
            if self.reads == 3:
                cell.set_alpha({"half": 1.0})
            return super().readinto(buffer)

    sink = io.BytesIO()
    report = filter(bundles[1], Turning(INPUT_FRAMES.tobytes()), sink, format="rgb24", size="6x4", alpha=cell)
    assert np.array_equal(np.frombuffer(sink.getvalue(), np.uint8)[-72:].reshape(4, 6, 3), np.rint(INPUT_FRAMES[-1] * 0.5))
    assert report.alpha == {"same": 0.0, "half": 1.0}
    assert report.changes == 1


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"format": "yuv"}, UsageError, "no format 'yuv'"),
        ({"size": None}, UsageError, "give their --size"),
        ({"size": "6"}, UsageError, "WIDTHxHEIGHT"),
        ({"size": "99999x99999"}, LimitError, "limit"),
        ({"format": "y4m"}, UsageError, "leave --size out"),
        ({"matrix": "709"}, UsageError, "leave --matrix out"),
        ({"matrix": "2020"}, UsageError, "no matrix '2020'"),
        ({"fps": "0"}, UsageError, "not a frame rate"),
        ({"alpha": "0:same=1, 2s:same=0"}, UsageError, "--fps"),
        ({"alpha": "nobody=1"}, UsageError, "nobody"),
        ({"alpha": 1.5}, UsageError, "outside 0 to 1"),
        ({"listeners": ListenerOptions(slew=1.0)}, UsageError, "slew"),
    ],
)
def test_invalid_calls_are_refused(
    options: dict[str, Any], kind: type[DniError], message: str, bundles: Any, dimmer: Any
) -> None:
    engine = dimmer()
    with pytest.raises(kind, match=message):
        rgb(bundles[1], **options)
    assert engine.refits == 0  # refused before an engine is opened


def test_empty_input_is_an_error(bundles: Any, dimmer: Any) -> None:
    dimmer()
    with pytest.raises(InputError, match="ended before its first frame"):
        rgb(bundles[1], b"")


def test_a_network_without_image_input_is_refused(dimmer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dimmer()
    bundle = pipe_bundle.write(tmp_path / "x1.dni")
    monkeypatch.setattr(type(bundle), "signature", Signature(input_channels=3, output_channels=1))
    with pytest.raises(MismatchError, match="takes 3 and gives 1"):
        filter(bundle, io.BytesIO(), io.BytesIO(), format="rgb24", size="6x4")


def test_y4m_without_pyav(bundles: Any, dimmer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    dimmer()
    for module in ("dni_deploy.video_io.y4m", "dni_deploy.video_io.color"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    for module in ("av", "av.video", "av.video.reformatter"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UnavailableError, match=r"pip install .*\[video\]"):
        y4m(bundles[1], HEADER)
    assert rgb(bundles[1])[0].frames == 5  # which works without it
