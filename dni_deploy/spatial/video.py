"""Mapped: a film whose frames get the alphas of a map, one map for all or one for each, between two alphas over time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dni_deploy.alpha.timeline import AlphaSource
from dni_deploy.errors import InputError, MismatchError, escape_name
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.image_file import FORMAT_BY_SUFFIX
from dni_deploy.imaging.rendered import RenderedFrame
from dni_deploy.session.session import Session
from dni_deploy.spatial.alpha_map import DEFAULT_LEVELS, AlphaMap, AlphaMapOptions
from dni_deploy.spatial.render import AlphaMapRange, AlphaMapRenderer
from dni_deploy.video_io.reader import VideoReader
from dni_deploy.video_io.resume import fingerprint_file
from dni_deploy.video_io.transcode import FrameFunction
from dni_deploy.video_io.video_file import VideoFile, open_video_file

MAX_CODING_ERROR = 3
"""How far, of 255, coding may have moved a grey from a level and still be taken for it: flat greys come back 1 or 2 off, and
would else ask for a level more over the whole of their area."""

MAX_GRAY_SPREAD = 24
"""How far apart, of 255, the channels of a grey may be in a coded film."""


def is_video_path(path: Path) -> bool:
    """Whether a map is a film by its name: every name but those of pictures."""
    return path.suffix.lower() not in FORMAT_BY_SUFFIX


class AlphaMapVideo:
    """Gives the maps in order; read by one thread. close: frees the decoder."""

    def __init__(self, path: Path, video_file: VideoFile, scale: int, *, levels: int | None = None, fit: bool = False) -> None:
        """film: the one it is for. Raises MismatchError (another size without `fit`, fewer frames) and what `open_video_file` raises."""
        self.video_file = open_video_file(path)
        self._levels = np.linspace(0.0, 1.0, DEFAULT_LEVELS if levels is None else levels)
        size = (self.video_file.width, self.video_file.height)
        fits = {(video_file.width, video_file.height), (video_file.width * scale, video_file.height * scale)}
        if not fit and size not in fits:
            raise MismatchError(
                f"The film of alpha maps {escape_name(path)} is {size[0]}x{size[1]} pixels and the film {video_file.width}x{video_file.height}; make them "
                "of one size, or let the maps be scaled (--alpha-map-fit). Nothing was written."
            )
        if self.video_file.frame_count and video_file.frame_count and self.video_file.frame_count < video_file.frame_count:
            raise MismatchError(
                f"The film of alpha maps {escape_name(path)} has {self.video_file.frame_count} frames and the film {video_file.frame_count}; "
                "it must have one for each. Nothing was written."
            )
        self._frames: Iterator[Frame] = iter(())
        self._next_number = -1

    def read_map(self, number: int) -> AlphaMap:
        """The map of that frame, a number later than the last one's. Raises InputError: it ends before, or is not grey."""
        if self._next_number < 0:
            self._frames, self._next_number = self._read_frames(number), number
        frame = None
        while self._next_number <= number:
            frame = next(self._frames, None)
            self._next_number += 1
        if frame is None:
            raise InputError(
                f"The film of alpha maps {escape_name(self.video_file.path)} ends before frame {number}; it must have a map for each frame. "
                "Nothing was written."
            )
        return self._to_alpha_map(frame, number)

    def _read_frames(self, skip: int) -> Iterator[Frame]:
        for picture in VideoReader(self.video_file, skip=skip):
            yield picture.rgb

    def _to_alpha_map(self, frame: Frame, number: int) -> AlphaMap:
        low, high = frame.min(axis=2), frame.max(axis=2)
        if int((high - low).max()) > MAX_GRAY_SPREAD:
            raise InputError(
                f"The film of alpha maps {escape_name(self.video_file.path)} is coloured at frame {number}; a map has one number per pixel. "
                "Nothing was written."
            )
        return AlphaMap.of(frame[..., 1]).snap_to_levels(self._levels, MAX_CODING_ERROR / 255 + 1e-9)


@dataclass
class SpatialVideoSettings:
    """blacks, whites: the alphas of both ends over time; maps: one map, or the film of them."""

    options: AlphaMapOptions
    black_source: AlphaSource
    white_source: AlphaSource
    maps: AlphaMap | AlphaMapVideo

    @classmethod
    def from_options(
        cls,
        options: AlphaMapOptions,
        black: Any,
        members: tuple[str, ...],
        parse_alpha_source: Callable[[Any], AlphaSource],
        video_file: VideoFile,
        scale: int,
    ) -> SpatialVideoSettings:
        """black: None for the default. parse_alpha_source: how an alpha that was given is read.

        Raises CoefficientsError, MismatchError (the map has another size, or too few frames), and what reading maps and alphas raises.
        """
        defaults = AlphaMapRange.make_default(members, black is None)
        blacks = parse_alpha_source(defaults.black if black is None else black)
        whites = parse_alpha_source(defaults.white if options.white is None else options.white)
        path = Path(options.mask)
        if is_video_path(path):
            return cls(
                options,
                blacks,
                whites,
                AlphaMapVideo(path, video_file, scale, levels=options.levels, fit=options.resize_to_fit),
            )
        found = AlphaMap.read(path)
        if not options.resize_to_fit:
            found.check_fits(video_file.height, video_file.width, scale)
        return cls(options, blacks, whites, found)

    def to_json(self) -> dict[str, Any]:
        """What tells one map from another."""
        return {
            "mask": fingerprint_file(Path(self.options.mask)),
            "levels": self.options.levels,
            "fit": self.options.resize_to_fit,
        }

    def make_frame_function(self, session: Session, tile: int | None = None, overlap: int | None = None) -> FrameFunction:
        """Frames come in order. The stamps tell the alpha of black, and their generation grows where that changes."""
        spatial: AlphaMapRenderer | None = None
        generation = 0

        def process_frame(frame: Frame, seconds: float, number: int) -> RenderedFrame:
            nonlocal spatial, generation
            ends = AlphaMapRange.from_options(
                session, self.black_source.at(seconds, number), self.white_source.at(seconds, number)
            )
            current = self.maps if isinstance(self.maps, AlphaMap) else self.maps.read_map(number)
            if spatial is None or ends.black != spatial.alpha_range.black:
                generation += 1
            if spatial is None:
                spatial = AlphaMapRenderer(session, self.options, current, ends)
            spatial.alpha_map, spatial.alpha_range = current, ends
            return RenderedFrame(spatial.render(frame, tile or 0, overlap).output, generation, ends.black)

        return process_frame
