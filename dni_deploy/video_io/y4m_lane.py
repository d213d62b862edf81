"""Y4M lane: y4m frames to RGB pictures and back, with the header's tokens kept. Needs PyAV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import UsageError
from dni_deploy.session.session import RenderedFrame
from dni_deploy.video_io.colour import ColorConverter, choose_matrix
from dni_deploy.video_io.pipe import ReadableFile
from dni_deploy.video_io.raw_formats import RawFrame
from dni_deploy.video_io.y4m import Y4mHeader, format_frame_line, read_header, read_y4m_frames, split_planes


class Y4mFormat:
    """As Lane says.

    matrix  "auto", "709" or "601".  fps: for a header without a rate.  stamp: write what made a frame into its line.
    Raises what read_header does, and UsageError (no rate anywhere, or two that differ), LimitError (the output is too large).
    """

    def __init__(
        self, source: ReadableFile, scale: int, *, matrix: str = "auto", fps: Fraction | None = None, stamp: bool = True
    ) -> None:
        header = _with_rate(read_header(source), fps)
        self.scale, self.width, self.height, self.rate = scale, header.width, header.height, header.rate
        self._source, self._stamp = source, stamp
        self._input_header, self._output_header = header, header.scale_by(scale)
        matrices = [choose_matrix(matrix, size.height) for size in (header, self._output_header)]
        self._color_converters = [
            ColorConverter(size.width, size.height, header.chroma, name, header.full_range)
            for size, name in zip((header, self._output_header), matrices, strict=True)
        ]
        self.notes = tuple(_collect_notes(header, matrix, matrices))

    def encode_header(self) -> bytes:
        return self._output_header.to_bytes()

    def read(self) -> Iterator[RawFrame]:
        for frame in read_y4m_frames(self._source, self._input_header):
            yield RawFrame(self._color_converters[0].to_rgb(frame.planes), frame.parameters)

    def encode_frame(self, frame: RawFrame, rendered: RenderedFrame) -> NDArray[np.uint8]:
        line = format_frame_line(frame.parameters, format_stamp(rendered) if self._stamp else "")
        data = np.empty(len(line) + self._output_header.frame_bytes, np.uint8)
        data[: len(line)] = np.frombuffer(line, np.uint8)
        self._color_converters[1].from_rgb(rendered.output, split_planes(data[len(line) :], self._output_header.plane_sizes))
        return data


def format_stamp(rendered: RenderedFrame) -> str:
    """The generation and the shares in family order, such as "17:0.35,0.65"."""
    return f"{rendered.generation}:" + ",".join(f"{share:.6g}" for share in rendered.coefficients.values)


def _with_rate(header: Y4mHeader, fps: Fraction | None) -> Y4mHeader:
    if header.rate is None and fps is None:
        raise UsageError("The y4m header has no frame rate; give it with --fps.")
    if header.rate is None:
        return header.with_rate(fps or Fraction(1))
    if fps is not None and fps != header.rate:
        raise UsageError(f"The y4m header says {header.rate} frames per second and --fps says {fps}; leave --fps out.")
    return header


def _collect_notes(header: Y4mHeader, matrix: str, matrices: Sequence[str]) -> Iterator[str]:
    if matrix == "auto" and header.chroma != "mono":
        before, after = matrices
        way = f"taken as BT.{before}" + (f" and written as BT.{after}" if after != before else "")
        yield f"y4m carries no colour matrix; by the number of lines it is {way} (--matrix)."
    if header.is_interlaced:
        yield "The stream is interlaced; its frames are filtered as they are, both fields together."
