"""Mapped: a film whose frames get the alphas of a map, one map for all or one for each, between two alphas over time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dni_deploy.alpha.timeline import AlphaSource
from dni_deploy.imaging.frames import Frame
from dni_deploy.session.session import Session, Stamped
from dni_deploy.spatial.alpha_map import AlphaMap, SpatialAlpha
from dni_deploy.spatial.map_film import MapFilm, is_film
from dni_deploy.spatial.render import MapEnds
from dni_deploy.spatial.spatial import Spatial
from dni_deploy.video_io.pipeline import Effect
from dni_deploy.video_io.resume import identity
from dni_deploy.video_io.video_file import Source


@dataclass
class Mapped:
    """blacks, whites: the alphas of both ends over time; maps: one map, or the film of them."""

    asked: SpatialAlpha
    blacks: AlphaSource
    whites: AlphaSource
    maps: AlphaMap | MapFilm

    @classmethod
    def of(
        cls,
        asked: SpatialAlpha,
        black: Any,
        members: tuple[str, ...],
        over_time: Callable[[Any], AlphaSource],
        film: Source,
        scale: int,
    ) -> Mapped:
        """black: None for the default. over_time: how an alpha that was given is read.

        Raises CoefficientsError, MismatchError (the map has another size, or too few frames), and what reading maps and alphas raises.
        """
        defaults = MapEnds.defaults(members, black is None)
        blacks = over_time(defaults.black if black is None else black)
        whites = over_time(defaults.white if asked.white is None else asked.white)
        path = Path(asked.mask)
        if is_film(path):
            return cls(asked, blacks, whites, MapFilm(path, film, scale, levels=asked.levels, fit=asked.fit))
        found = AlphaMap.read(path)
        if not asked.fit:
            found.check_fits(film.height, film.width, scale)
        return cls(asked, blacks, whites, found)

    def to_json(self) -> dict[str, Any]:
        """What tells one map from another."""
        return {"mask": identity(Path(self.asked.mask)), "levels": self.asked.levels, "fit": self.asked.fit}

    def effect(self, session: Session, tile: int | None = None, overlap: int | None = None) -> Effect:
        """Frames come in order. The stamps tell the alpha of black, and their generation grows where that changes."""
        spatial: Spatial | None = None
        generation = 0

        def effect(frame: Frame, seconds: float, number: int) -> Stamped:
            nonlocal spatial, generation
            ends = MapEnds.of(session, self.blacks.at(seconds, number), self.whites.at(seconds, number))
            current = self.maps if isinstance(self.maps, AlphaMap) else self.maps.at(number)
            if spatial is None or ends.black != spatial.ends.black:
                generation += 1
            if spatial is None:
                spatial = Spatial(session, self.asked, current, ends)
            spatial.map, spatial.ends = current, ends
            return Stamped(spatial.render(frame, tile or 0, overlap).output, generation, ends.black)

        return effect
