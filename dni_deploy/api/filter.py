"""Filters raw video from a pipe into a pipe, for graphs that other programs make."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from dni_deploy.alpha.log import AlphaLog
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.control.frame_alpha import FrameAlpha, StreamAlpha, open_frame_alpha
from dni_deploy.control.open_listeners import ListenerOptions
from dni_deploy.errors import InputError, UsageError, escape_name
from dni_deploy.imaging.frames import check_signature
from dni_deploy.imaging.rendered import RenderedFrame
from dni_deploy.session.options import SessionOptions
from dni_deploy.session.session import Session, open_session
from dni_deploy.utils.optional_packages import import_optional
from dni_deploy.video_io.pipe import OutputClosedError, ReadableFile, WritableFile, check_output_open, write_whole
from dni_deploy.video_io.pipeline import PipelineLimits, run_pipeline
from dni_deploy.video_io.raw_formats import PIXEL_LAYOUTS, PackedFormat, RawFrame, RawVideoFormat, parse_rate

RAW_FORMATS = ("y4m", *PIXEL_LAYOUTS)

PIPE_LIMITS = PipelineLimits(max_read=2, max_processed=2, join_timeout_s=1.0)
"""Frames that are enough for reading, rendering and writing to overlap. Each frame more is one frame more between a live alpha
and what is shown. A reader that still waits for a stalled source is left alone after a second."""

NoteCallback = Callable[[str], None]
"""Takes a sentence for people: what was taken for granted, what a control message had wrong."""


@dataclass(frozen=True)
class FilterReport:
    """What `filter` did.

    Attributes:
        frames: Number of complete frames that were written.
        format: Format of the stream.
        size: Size of the input, "640x360".
        output_size: Size of the output.
        rate: Frames per second, "30000/1001"; None if unknown.
        alpha: Alpha of the last frame by member name.
        changes: How often another alpha was blended than the first.
        closed_by: "source" at its end, or "sink": the reader of the output closed it first.
        engine: Name of the engine.
        engine_reason: Why this engine was chosen.
        seconds: Time from the first frame's arrival to the end.
    """

    frames: int
    format: str
    size: str
    output_size: str
    rate: str | None
    alpha: dict[str, float]
    changes: int
    closed_by: str
    engine: str
    engine_reason: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Returns the report as `--json` prints it."""
        return asdict(self)


def filter(
    bundle_path: Bundle | str | os.PathLike[str],
    source: ReadableFile,
    sink: WritableFile,
    *,
    format: str = "y4m",
    size: str | None = None,
    fps: str | None = None,
    matrix: str = "auto",
    alpha: StreamAlpha = None,
    listeners: ListenerOptions | None = None,
    alpha_log: str | os.PathLike[str] | None = None,
    force: bool = False,
    stamp: bool = True,
    options: SessionOptions | None = None,
    note: NoteCallback | None = None,
) -> FilterReport:
    """Filters raw video until the source ends or the reader of the sink closes it, which is no error.

    Args:
        bundle_path: The bundle or its path.
        source: A binary file, best unbuffered; it stays open.
        sink: A binary file, best unbuffered; it stays open. Nothing but video is written to it.
        format: "y4m": 8 to 16 bits, 4:2:0, 4:2:2, 4:4:4 and mono; the header's tokens are kept, and a scale factor changes W
            and H. One of PIXEL_LAYOUTS: bare frames of `size`; transparency is passed through unchanged.
        size: "WIDTHxHEIGHT" of bare frames.
        fps: "25" or "30000/1001": for bare frames, and for a y4m header without a rate.
        matrix: "709", "601", or "auto": y4m does not say, so from 720 lines on BT.709, below BT.601, for input and output
            alike.
        alpha: An alpha; a timeline or a curve as text; a file of keyframes, or a log to replay; an AlphaSource; None: the
            first member alone.
        listeners: What sets alpha from outside while frames run (`note` gets the ports and the token); `alpha` is then the
            first one.
        alpha_log: A file to write alpha and generation of every written frame to.
        force: Replace a log that exists.
        stamp: y4m: write generation and shares into each frame's line, as the comment XDNI=generation:share,share.
        options: Options of the session.
        note: Called with a sentence for the user: what was assumed, what is wrong with a control message.

    Returns:
        What was done.

    Raises:
        UsageError: An option is out of range or unknown.
        InputError: Nothing, no complete frame, or no video arrived.
        PartialResultError: The stream was cut or damaged after complete frames, which were processed.
        LimitError: The frames are too large.
        MismatchError: The network takes no images.
        UnavailableError: y4m without PyAV; names the extra.
        DniError: As open_session raises.
    """
    options = options or SessionOptions()
    report_note = note or (lambda sentence: None)
    rate = None if fps is None else parse_rate(fps)
    _check_options(format, size, matrix, rate)
    bundle = Bundle.ensure_open(bundle_path)
    check_signature(bundle.signature)
    raw_format = _make_raw_format(format, source, bundle.signature.scale, size, rate, matrix, stamp)
    for sentence in raw_format.notes:
        report_note(sentence)
    with ExitStack() as stack:
        control = stack.enter_context(
            open_frame_alpha(
                bundle.members,
                alpha,
                rate=raw_format.rate,
                listeners=listeners,
                extrapolate=options.extrapolate,
                controls=bundle.signature.controls,
                control_values=options.controls,
                note=report_note,
            )
        )
        session = stack.enter_context(open_session(bundle, options, alpha=control.at(0)))
        log = None
        if alpha_log is not None:  # after the session: one that cannot be opened leaves no empty log
            log = stack.enter_context(AlphaLog(alpha_log, bundle.members, bundle.digest, force=force))
        return _filter_frames(raw_format, session, control, sink, log, format)


def _check_options(format: str, size: str | None, matrix: str, rate: Fraction | None) -> None:
    if format not in RAW_FORMATS:
        raise UsageError(f"There is no format {escape_name(format, 40)!r}; there are {', '.join(RAW_FORMATS)}.")
    if format != "y4m" and size is None:
        raise UsageError(f"{format} is bare pixels; give their --size, such as 640x360.")
    if format == "y4m" and size is not None:
        raise UsageError("y4m says its own size; leave --size out.")
    if matrix not in ("auto", "709", "601"):
        raise UsageError(f"There is no matrix {escape_name(matrix, 40)!r}; there are auto, 709, 601.")
    if format != "y4m" and matrix != "auto":
        raise UsageError(f"{format} has no color matrix; leave --matrix out.")


def _make_raw_format(
    format: str, source: ReadableFile, scale: int, size: str | None, rate: Fraction | None, matrix: str, stamp: bool
) -> RawVideoFormat:
    if format != "y4m":
        return PackedFormat(source, scale, size or "", format, fps=rate)
    lane: RawVideoFormat = import_optional("dni_deploy.video_io.y4m").Y4mFormat(
        source, scale, matrix=matrix, fps=rate, stamp=stamp
    )
    return lane


def _filter_frames(
    raw_format: RawVideoFormat, session: Session, control: FrameAlpha, sink: WritableFile, log: AlphaLog | None, format: str
) -> FilterReport:
    started: list[float] = []

    def read_frames() -> Iterator[tuple[int, RawFrame]]:
        for number, source in enumerate(raw_format.read()):
            if not started:
                started.append(time.perf_counter())
            yield number, source

    def process_frame(numbered: tuple[int, RawFrame]) -> Future[RenderedFrame]:
        number, source = numbered
        session.alpha = control.at(number)
        session.controls = control.read_controls()
        return session.submit(source.rgb)

    def write_frames(frames: Iterator[tuple[tuple[int, RawFrame], RenderedFrame]]) -> None:
        for (number, source), rendered in frames:
            write_whole(sink, raw_format.encode_frame(source, rendered))
            if log is not None:
                log.write(number, control.frame_seconds(number), rendered.generation, rendered.coefficients)
            del source, rendered  # a frame is not held while the next one is waited for

    first = session.generation
    written, output_closed = 0, False
    try:
        write_whole(sink, raw_format.encode_header())
    except OutputClosedError:
        output_closed = True
    if not output_closed:
        written, output_closed = run_pipeline(
            read_frames(), process_frame, write_frames, PIPE_LIMITS, lambda: check_output_open(sink)
        )
    if not written and not output_closed:
        raise InputError("The stream ended before its first frame; see what the program before the pipe says.")
    scaled = f"{raw_format.width * raw_format.scale}x{raw_format.height * raw_format.scale}"
    return FilterReport(
        frames=written,
        format=format,
        size=f"{raw_format.width}x{raw_format.height}",
        output_size=scaled,
        rate=None if raw_format.rate is None else str(raw_format.rate),
        alpha=dict(zip(session.members, session.alpha.values, strict=True)),
        changes=session.generation - first,
        closed_by="sink" if output_closed else "source",
        engine=session.engine.name,
        engine_reason=session.engine_reason,
        seconds=time.perf_counter() - started[0] if started else 0.0,
    )
