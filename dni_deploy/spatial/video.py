"""A video whose frames get the alphas of a map, one map for all or one for each, between two alphas over time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from dni_deploy.alpha.timeline import AlphaSource
from dni_deploy.errors import InputError, MismatchError, escape_name
from dni_deploy.imaging.frames import AnyFrame
from dni_deploy.imaging.image_formats import STILL_SUFFIXES
from dni_deploy.imaging.rendered import RenderedFrame
from dni_deploy.session.session import Session
from dni_deploy.spatial.alpha_map import DEFAULT_LEVELS, AlphaMap, AlphaMapOptions
from dni_deploy.spatial.render import AlphaMapRange, AlphaMapRenderer
from dni_deploy.utils.address import as_local_path
from dni_deploy.video_io.pipeline import make_completed_future
from dni_deploy.video_io.reader import VideoReader
from dni_deploy.video_io.resume import fingerprint_file
from dni_deploy.video_io.transcode import FrameFunction
from dni_deploy.video_io.video_file import UNKNOWN_ORIENTATION_NOTE, VideoFile, open_video_file

MAX_CODING_ERROR = 3
"""How far, of 255, coding may have moved a gray from a level and still be read as it: flat grays come back 1 or 2 off, and
would else need a level more over the whole of their area."""

MAX_GRAY_SPREAD = 24
"""How far, of 255, the channels of a gray may differ in a coded video."""


def is_video_path(path: Path) -> bool:
    """Returns whether a map is a video by its name: every name but those of images."""
    return path.suffix.lower() not in STILL_SUFFIXES


class AlphaMapVideo:
    """A video of alpha maps, one for each frame of another video.

    Thread safety: one thread reads it.
    """

    def __init__(self, path: Path, video_file: VideoFile, scale: int, *, levels: int | None = None, fit: bool = False) -> None:
        """Opens the video of maps.

        Args:
            path: Of the maps.
            video_file: The video that they are for.
            scale: Of the network.
            levels: As in `AlphaMapOptions`.
            fit: Whether another size is allowed.

        Raises:
            MismatchError: It has another size without `fit`, or fewer frames.
            InputError: It is to be shown at another angle; and as `open_video_file`, like its other errors.
        """
        self.video_file = open_video_file(path)
        if UNKNOWN_ORIENTATION_NOTE in self.video_file.notes:
            raise InputError(
                f"The video of alpha maps {escape_name(path)} is to be shown turned by an angle that is no multiple of 90 degrees, "
                "or scaled unequally, so that its pixels do not lie on those of the video; write it upright. Nothing was written."
            )
        self._levels = np.linspace(0.0, 1.0, DEFAULT_LEVELS if levels is None else levels)
        size = (self.video_file.width, self.video_file.height)
        fits = {(video_file.width, video_file.height), (video_file.width * scale, video_file.height * scale)}
        if not fit and size not in fits:
            raise MismatchError(
                f"The video of alpha maps {escape_name(path)} is {size[0]}x{size[1]} pixels and the video "
                f"{video_file.width}x{video_file.height}; make them of one size, "
                "or let the maps be scaled (--alpha-map-fit). Nothing was written."
            )
        if 0 < self.video_file.frame_count < video_file.frame_count:  # 0: not in the header
            raise MismatchError(
                f"The video of alpha maps {escape_name(path)} has {self.video_file.frame_count} frames and the video "
                f"{video_file.frame_count}; it must have one for each. Nothing was written."
            )
        self._frames: Iterator[AnyFrame] | None = None
        self._next_number = 0

    def read_map(self, number: int) -> AlphaMap:
        """Reads the map of a frame; one that is not behind the last one begins again with the first.

        Raises:
            InputError: The video ends before, or is not gray.
        """
        if self._frames is None or number < self._next_number:
            self._next_number = number
            self._frames = (decoded.rgb for decoded in VideoReader(self.video_file, is_skipped=lambda index: index < number))
        frame = next(islice(self._frames, number - self._next_number, None), None)
        self._next_number = number + 1
        if frame is None:
            raise InputError(
                f"The video of alpha maps {escape_name(self.video_file.path)} ends before frame {number}; "
                "it must have a map for each frame. Nothing was written."
            )
        return self._to_alpha_map(frame, number)

    def _to_alpha_map(self, frame: AnyFrame, number: int) -> AlphaMap:
        low, high = frame.min(axis=2), frame.max(axis=2)
        if int((high - low).max()) > MAX_GRAY_SPREAD:
            raise InputError(
                f"The video of alpha maps {escape_name(self.video_file.path)} is in color at frame {number}; "
                "a map has one number per pixel. Nothing was written."
            )
        return AlphaMap.of(frame[..., 1]).snap_to_levels(self._levels, MAX_CODING_ERROR / 255 + 1e-9)


@dataclass
class SpatialVideoSettings:
    """How the frames of a video get their maps.

    Attributes:
        options: As the user chose them.
        black_source: The alpha where a map is black, over time.
        white_source: The alpha where a map is white, over time.
        maps: One map, or the video of them.
    """

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
        """Reads the map, or opens the video of maps, and parses the alphas.

        Args:
            options: As the user chose them.
            black: The alpha where a map is black; None for the default.
            members: Of the family, in its order.
            parse_alpha_source: Parses an alpha over time.
            video_file: The video that the maps are for.
            scale: Of the network.

        Raises:
            CoefficientsError: An alpha does not suit the family.
            MismatchError: The map has another size, or too few frames.
            InputError: A file cannot be read; its other errors are those of `AlphaMap.read` and `open_video_file`.
        """
        default = AlphaMapRange.make_default(members, black is None)
        black_source = parse_alpha_source(default.black if black is None else black)
        white_source = parse_alpha_source(default.white if options.white is None else options.white)
        path = as_local_path(options.mask, "an alpha map")
        maps: AlphaMap | AlphaMapVideo
        if is_video_path(path):
            maps = AlphaMapVideo(path, video_file, scale, levels=options.levels, fit=options.resize_to_fit)
        else:
            maps = AlphaMap.read(path)
            if not options.resize_to_fit:
                maps.check_fits(video_file.height, video_file.width, scale)
        return cls(options, black_source, white_source, maps)

    def to_json(self) -> dict[str, Any]:
        """Returns what distinguishes one map from another, for the identity of a resumable job."""
        return {
            "mask": fingerprint_file(Path(self.options.mask)),
            "levels": self.options.levels,
            "fit": self.options.resize_to_fit,
        }

    def make_frame_function(self, session: Session, tile: int | None = None, overlap: int | None = None) -> FrameFunction:
        """Makes the function that renders the frames in order.

        The rendered frames have the alpha of black, and their generation grows where that changes.
        """
        renderer: AlphaMapRenderer | None = None
        generation = 0

        def process_frame(frame: AnyFrame, seconds: float, number: int) -> Future[RenderedFrame]:
            nonlocal renderer, generation
            alpha_range = AlphaMapRange.from_options(
                session, self.black_source.at(seconds, number), self.white_source.at(seconds, number)
            )
            alpha_map = self.maps if isinstance(self.maps, AlphaMap) else self.maps.read_map(number)
            if renderer is None or alpha_range.black != renderer.alpha_range.black:
                generation += 1
            if renderer is None:
                renderer = AlphaMapRenderer(session, self.options, alpha_map, alpha_range)
            renderer.alpha_map, renderer.alpha_range = alpha_map, alpha_range
            return make_completed_future(
                RenderedFrame(renderer.render(frame, tile or 0, overlap).output, generation, alpha_range.black)
            )

        return process_frame
