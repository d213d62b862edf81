"""Pipeline: decode, effect and encode at the same time, in three threads with bounded queues between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import Thread
from typing import NamedTuple

from dni_deploy.errors import EngineError, InputError, LimitError, shown
from dni_deploy.imaging.frames import Frame
from dni_deploy.session.session import Stamped
from dni_deploy.utils.atomic_write import FULL
from dni_deploy.utils.progress import MaybeProgress, tell
from dni_deploy.video_io.channel import Broken, Channel
from dni_deploy.video_io.encoder import Encoder, EncoderSettings, Target
from dni_deploy.video_io.reader import Losses, Picture, Reader
from dni_deploy.video_io.resume import Job
from dni_deploy.video_io.segments import AlphaRow, EncodingLost, SegmentWriter
from dni_deploy.video_io.video_file import Source

Effect = Callable[[Frame, float, int], Stamped]
"""effect(frame, seconds since the first frame, frame number) -> what came of it. Called in the thread that called `process`."""

QUEUE_BYTES = 64 << 20
QUEUE_FRAMES = 8
"""Each queue holds at most this much, whichever is less; never less than one frame."""

TOLD_EVERY = 0.1
"""Seconds between two words of progress."""

PATIENCE = 60.0
"""Seconds that a thread gets to finish the frame it is at when the run is over."""


class WorkFolderError(InputError):
    """The work folder cannot be written; the film itself is not at fault, so what is done stays."""

    kind = "WorkFolderError"


class Finished(NamedTuple):
    """A frame on its way to the encoder."""

    number: int
    pts: int
    duration: int
    rgb: Frame
    alpha: AlphaRow


@dataclass
class Settings:
    """How a film is made; segment_frames: as many frames a segment has, the last one fewer."""

    encoder: EncoderSettings
    target: Target
    header: bool
    segment_frames: int
    hwaccel: str | None = None


def process(source: Source, job: Job, effect: Effect, settings: Settings, scale: int, progress: MaybeProgress = None) -> Losses:
    """Make the segments that the job does not have yet; returns what the film lost.

    The first exception of any thread ends all of them and is raised; Ctrl-C too. Whole segments stay in the job.
    """
    reader = Reader(source, skip=job.kept, hwaccel=settings.hwaccel)
    pixels = source.width * source.height * 3
    taken: Channel[Picture] = Channel(_depth(pixels))
    made: Channel[Finished] = Channel(_depth(pixels * scale * scale))
    failures: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except Broken:
            pass
        except BaseException as error:
            failures.append(error)
            taken.break_up()
            made.break_up()

    def read() -> None:
        for picture in reader:
            taken.put(picture)
        taken.end()

    threads = [
        Thread(target=run, args=(read,), name="dni-read", daemon=True),
        Thread(target=run, args=(lambda: _write(made, job, settings),), name="dni-write", daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        _apply(taken, made, source, job, effect, scale, progress)
        made.end()
        for thread in threads:
            thread.join()
    except Broken:
        pass  # a thread's own exception tells more
    finally:
        taken.break_up()
        made.break_up()
        for thread in threads:
            thread.join(PATIENCE)
    if failures:
        raise failures[0]
    return reader.losses


def _apply(
    taken: Iterable[Picture],
    made: Channel[Finished],
    source: Source,
    job: Job,
    effect: Effect,
    scale: int,
    progress: MaybeProgress,
) -> None:
    done, shift, pace = job.kept, 0, _Pace(job.kept, source.frames, progress)
    last = job.segments[-1].last if job.segments else None
    for picture in taken:
        seconds = float((picture.pts - source.start) * source.time_base)
        stamped = effect(picture.rgb, seconds, picture.number)
        if stamped.output.shape != (source.height * scale, source.width * scale, 3):
            raise EngineError(
                f"The network made a frame of {stamped.output.shape[1]}x{stamped.output.shape[0]} where "
                f"{source.width * scale}x{source.height * scale} was expected."
            )
        if last is not None:
            # Generations go on counting where the stopped run's last whole segment ended.
            changed = last.shares != stamped.coefficients.shares
            shift, last = last.generation + changed - stamped.generation, None
        row = AlphaRow(seconds, stamped.generation + shift, stamped.coefficients.shares)
        made.put(Finished(picture.number, picture.pts, picture.duration, stamped.output, row))
        done += 1
        pace.tell(done)


def _write(made: Iterable[Finished], job: Job, settings: Settings) -> None:
    writer: SegmentWriter | None = None
    encoder: Encoder | None = None
    try:
        for frame in made:
            if writer is None or encoder is None:
                writer = job.begin()
                encoder = Encoder(settings.encoder, settings.target, header=settings.header)
            writer.frame(frame.pts, frame.duration, frame.alpha)
            for packet in encoder.encode(frame.rgb, frame.pts):
                writer.packet(packet)
            if writer.frames == settings.segment_frames:
                _close(job, writer, encoder)
                writer = encoder = None
        if writer is not None and encoder is not None:
            _close(job, writer, encoder)
            writer = None
    except OSError as error:
        kind = LimitError if error.errno in FULL else WorkFolderError
        raise kind(
            f"The work folder {shown(job.folder)} could not be written ({error.strerror}); its whole segments stay, and the same "
            "command goes on behind them."
        ) from error
    finally:
        if writer is not None:
            writer.discard()


def _close(job: Job, writer: SegmentWriter, encoder: Encoder) -> None:
    for packet in encoder.finish():
        writer.packet(packet)
    try:
        job.segments.append(writer.close())
    except EncodingLost as lost:
        frames, packets = lost.args
        raise EngineError(f"The encoder made {packets} packets of {frames} frames; choose another --codec.") from lost


def _depth(frame_bytes: int) -> int:
    if frame_bytes > 1 << 31:
        raise LimitError(f"A frame of {frame_bytes / 1e9:.1f} GB is too large; make the film smaller.")
    return max(1, min(QUEUE_FRAMES, QUEUE_BYTES // frame_bytes))


class _Pace:
    """Frames per second and remaining time, told now and then."""

    def __init__(self, done: int, total: int, progress: MaybeProgress) -> None:
        self._from, self._total, self._progress = done, total, progress
        self._began = self._told = time.monotonic()

    def tell(self, done: int) -> None:
        now = time.monotonic()
        if self._progress is None or now - self._told < TOLD_EVERY:
            return
        self._told = now
        rate = (done - self._from) / (now - self._began)
        left = max(0, self._total - done) / rate
        minutes, seconds = divmod(round(left), 60)
        remaining = f", {minutes // 60}:{minutes % 60:02d}:{seconds:02d} left" if self._total else ""
        tell(self._progress, done, max(self._total, done), f"{rate:.1f} frames/s{remaining}")
