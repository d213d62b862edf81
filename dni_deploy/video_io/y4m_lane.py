"""Y4M lane: y4m frames to RGB pictures and back, with the header's tokens kept. Needs PyAV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import UsageError
from dni_deploy.session.session import Stamped
from dni_deploy.video_io.colour import Colour, matrix_of
from dni_deploy.video_io.pipe import Readable
from dni_deploy.video_io.raw_formats import Picture
from dni_deploy.video_io.y4m import Header, frame_line, read_frames, read_header, split_planes


class Y4mLane:
    """As Lane says.

    matrix  "auto", "709" or "601".  fps: for a header without a rate.  stamp: write what made a frame into its line.
    Raises what read_header does, and UsageError (no rate anywhere, or two that differ), LimitError (the output is too large).
    """

    def __init__(
        self, source: Readable, scale: int, *, matrix: str = "auto", fps: Fraction | None = None, stamp: bool = True
    ) -> None:
        header = _rated(read_header(source), fps)
        self.scale, self.width, self.height, self.rate = scale, header.width, header.height, header.rate
        self._source, self._stamp = source, stamp
        self._header, self._out = header, header.scaled(scale)
        matrices = [matrix_of(matrix, size.height) for size in (header, self._out)]
        self._colours = [
            Colour(size.width, size.height, header.chroma, name, header.full_range)
            for size, name in zip((header, self._out), matrices, strict=True)
        ]
        self.notes = tuple(_notes(header, matrix, matrices))

    def begin(self) -> bytes:
        return self._out.to_bytes()

    def read(self) -> Iterator[Picture]:
        for frame in read_frames(self._source, self._header):
            yield Picture(self._colours[0].to_rgb(frame.planes), frame.parameters)

    def pack(self, picture: Picture, made: Stamped) -> NDArray[np.uint8]:
        line = frame_line(picture.parameters, stamp_of(made) if self._stamp else "")
        data = np.empty(len(line) + self._out.frame_bytes, np.uint8)
        data[: len(line)] = np.frombuffer(line, np.uint8)
        self._colours[1].from_rgb(made.output, split_planes(data[len(line) :], self._out.plane_sizes))
        return data


def stamp_of(made: Stamped) -> str:
    """The generation and the shares in family order, such as "17:0.35,0.65"."""
    return f"{made.generation}:" + ",".join(f"{share:.6g}" for share in made.coefficients.shares)


def _rated(header: Header, fps: Fraction | None) -> Header:
    if header.rate is None and fps is None:
        raise UsageError("The y4m header has no frame rate; give it with --fps.")
    if header.rate is None:
        return header.with_rate(fps or Fraction(1))
    if fps is not None and fps != header.rate:
        raise UsageError(f"The y4m header says {header.rate} frames per second and --fps says {fps}; leave --fps out.")
    return header


def _notes(header: Header, matrix: str, matrices: Sequence[str]) -> Iterator[str]:
    if matrix == "auto" and header.chroma != "mono":
        before, after = matrices
        way = f"taken as BT.{before}" + (f" and written as BT.{after}" if after != before else "")
        yield f"y4m carries no colour matrix; by the number of lines it is {way} (--matrix)."
    if header.interlaced:
        yield "The stream is interlaced; its frames are filtered as they are, both fields together."
