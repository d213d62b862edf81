"""Mapped: a film whose frames get the alphas of a map, one map for all or one for each, between two alphas over time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dni_deploy.alpha.timeline import AlphaSource
from dni_deploy.imaging.frames import Frame
from dni_deploy.session.session import RenderedFrame, Session
from dni_deploy.spatial.alpha_map import AlphaMap, AlphaMapOptions
from dni_deploy.spatial.map_film import AlphaMapVideo, is_video_path
from dni_deploy.spatial.render import AlphaMapRange
from dni_deploy.spatial.spatial import AlphaMapRenderer
from dni_deploy.video_io.pipeline import FrameFunction
from dni_deploy.video_io.resume import fingerprint_file
from dni_deploy.video_io.video_file import VideoFile


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
