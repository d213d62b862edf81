"""Deinterlacing: one whole frame for each interlaced one, at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import av
from av.filter import Graph
from av.video.frame import VideoFrame

BWDIF_OPTIONS = "mode=send_frame:parity=auto"
"""Options of FFmpeg's filter bwdif (Bob Weaver deinterlacing): one frame for one frame, the order of fields as frames say it."""


class Deinterlacer:
    """Deinterlaces the frames of one stream. Which field is first is read from each frame; without a mark it is the top one.

    Thread safety: For one thread.
    """

    def __init__(self, time_base: Fraction, *, only_marked: bool) -> None:
        """Prepares for a stream.

        Args:
            time_base: Seconds per tick of its timestamps.
            only_marked: Leave frames as they are that are not marked as interlaced.
        """
        self._time_base = time_base
        self._filtered_frames = "interlaced" if only_marked else "all"
        self._durations: dict[int, int] = {}
        self._graph: Graph | None = None

    def push(self, frame: VideoFrame, pts: int) -> Iterator[tuple[VideoFrame, int, int]]:
        """Takes the next frame.

        Args:
            frame: A decoded frame; all have one size and format. Its timestamp is set.
            pts: Its timestamp in ticks, later than that of the frame before.

        Yields:
            Frames that are ready with their timestamps and durations in ticks, in order; each comes one frame late.
        """
        frame.pts, frame.time_base = pts, self._time_base
        self._durations[pts] = int(frame.duration or 0)
        if self._graph is None:
            self._graph = self._build_graph(frame)
        self._graph.vpush(frame)
        yield from self._pull(self._graph)

    def flush(self) -> Iterator[tuple[VideoFrame, int, int]]:
        """Yields the frames that are left; none may follow."""
        if self._graph is not None:
            self._graph.vpush(None)
            yield from self._pull(self._graph)

    def _build_graph(self, frame: VideoFrame) -> Graph:
        graph = Graph()
        source = graph.add(
            "buffer",
            f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base={self._time_base}"
            f":colorspace={int(frame.colorspace)}:range={int(frame.color_range)}",
        )
        bwdif = graph.add("bwdif", f"{BWDIF_OPTIONS}:deint={self._filtered_frames}")
        graph.link_nodes(source, bwdif, graph.add("buffersink"))
        graph.configure()
        return graph

    def _pull(self, graph: Graph) -> Iterator[tuple[VideoFrame, int, int]]:
        while True:
            try:
                frame = graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            assert frame.pts is not None
            assert frame.time_base is not None
            pts = round(frame.pts * frame.time_base / self._time_base)  # the filter counts fields
            yield frame, pts, self._durations.pop(pts, 0)
