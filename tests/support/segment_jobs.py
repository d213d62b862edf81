"""Segments of a video made in random order, some of them twice, and joined; and how many frames that decoded."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dni_deploy.api import video as verb
from dni_deploy.api.video_settings import VideoRequest, check_request
from dni_deploy.errors import PartialResultError
from dni_deploy.video_io import reader
from dni_deploy.video_io.encoder import EncoderOptions
from dni_deploy.video_io.segment_units import SegmentUnit
from dni_deploy.video_io.video_file import InputOptions
from tests.support.video_command import named_bundle

SEGMENT_FRAMES = 5
ALPHA = "0:a=1, 0.3s:a=0.3, 0.7s:a=0.9; hold"


class Outcome(NamedTuple):
    """How a job ended.

    Attributes:
        notes: Its notes.
        error: The sentence of PartialResultError, without the output's name, or "".
        log: The alpha log.
        data: The output.
    """

    notes: tuple[str, ...]
    error: str
    log: bytes
    data: bytes


class Shuffled(NamedTuple):
    """A job whose segments were made in random order.

    Attributes:
        outcome: How it ended.
        is_decoded: Whether the index is of decoded frames in the end.
        frames: Number of frames.
        attempts: Number of attempts at a segment.
        decoded: Number of packets that were decoded for them, without those for the index.
    """

    outcome: Outcome
    is_decoded: bool
    frames: int
    attempts: int
    decoded: int


def make_request(source: Path, output: Path, suffix_of_log: str = ".jsonl", **reading: Any) -> VideoRequest:
    """Makes the request of a video with SEGMENT_FRAMES and ALPHA."""
    return VideoRequest(
        bundle_path=named_bundle(),
        source_path=source,
        output=output,
        alpha=ALPHA,
        encoder=EncoderOptions(crf=20, preset="ultrafast", segment_frames=SEGMENT_FRAMES),
        input_options=InputOptions(**reading),
        alpha_log=output.with_suffix(suffix_of_log),
    )


def finish(work: Callable[[], verb.VideoReport], output: Path) -> Outcome:
    """Runs what ends with the output in place."""
    notes, sentence = (), ""
    try:
        notes = work().notes
    except PartialResultError as error:
        sentence = str(error).replace(str(output), "OUT")
    return Outcome(notes, sentence, output.with_suffix(".jsonl").read_bytes(), output.read_bytes())


def make_whole(source: Path, output: Path, **reading: Any) -> Outcome:
    """Makes the video in one run."""
    return finish(lambda: verb.video(**vars(make_request(source, output, **reading))), output)


def make_shuffled(source: Path, output: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 0, **reading: Any) -> Shuffled:
    """Makes every segment by itself in random order, three of them twice, and joins them."""
    packets, rng = [0], random.Random(seed)
    make_decode_function = reader.make_decode_function

    def count_packets(stream: Any) -> Any:
        decode = make_decode_function(stream)

        def count(packet: Any) -> Any:
            packets[0] += bool(packet.size)
            return decode(packet)

        return count

    monkeypatch.setattr(reader, "make_decode_function", count_packets)
    settings = check_request(make_request(source, output, **reading))
    with verb.open_video_job(settings) as job, verb.SegmentMaker(settings, job) as maker:
        maker.load_index()
        for _ in range(2):
            places = maker.index.list_segments(SEGMENT_FRAMES)
            order = [*places, *rng.sample(places, min(3, len(places)))]
            rng.shuffle(order)
            packets[0] = 0
            with suppress(verb.IndexReplacedError):
                for place in order:
                    job.stored_segments.pop(place.number, None)
                    maker.make_unit(SegmentUnit((place,)))
                break
        decoded = packets[0]
        outcome = finish(lambda: verb.finish_video(maker, maker.collect_dropped_frames(), time.perf_counter()), output)
        return Shuffled(outcome, maker.index.is_decoded, maker.index.frames, len(order), decoded)
