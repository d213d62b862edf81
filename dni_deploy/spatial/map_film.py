"""MapFilm: an alpha map for each frame of a film, out of a second film, frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dni_deploy.errors import InputError, MismatchError, shown
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.image_file import FORMATS
from dni_deploy.spatial.alpha_map import LEVELS, AlphaMap
from dni_deploy.video_io.reader import Reader
from dni_deploy.video_io.video_file import Source, look

CODING = 3
"""How far, of 255, coding may have moved a grey from a level and still be taken for it: flat greys come back 1 or 2 off, and
would else ask for a level more over the whole of their area."""

COLOURED = 24
"""How far apart, of 255, the channels of a grey may be in a coded film."""


def is_film(path: Path) -> bool:
    """Whether a map is a film by its name: every name but those of pictures."""
    return path.suffix.lower() not in FORMATS


class MapFilm:
    """Gives the maps in order; read by one thread. close: frees the decoder."""

    def __init__(self, path: Path, film: Source, scale: int, *, levels: int | None = None, fit: bool = False) -> None:
        """film: the one it is for. Raises MismatchError (another size without `fit`, fewer frames) and what `look` raises."""
        self.source = look(path)
        self._levels = np.linspace(0.0, 1.0, LEVELS if levels is None else levels)
        size = (self.source.width, self.source.height)
        fits = {(film.width, film.height), (film.width * scale, film.height * scale)}
        if not fit and size not in fits:
            raise MismatchError(
                f"The film of alpha maps {shown(path)} is {size[0]}x{size[1]} pixels and the film {film.width}x{film.height}; make them "
                "of one size, or let the maps be scaled (--alpha-map-fit). Nothing was written."
            )
        if self.source.frames and film.frames and self.source.frames < film.frames:
            raise MismatchError(
                f"The film of alpha maps {shown(path)} has {self.source.frames} frames and the film {film.frames}; "
                "it must have one for each. Nothing was written."
            )
        self._frames: Iterator[Frame] = iter(())
        self._next = -1

    def at(self, number: int) -> AlphaMap:
        """The map of that frame, a number later than the last one's. Raises InputError: it ends before, or is not grey."""
        if self._next < 0:
            self._frames, self._next = self._read(number), number
        frame = None
        while self._next <= number:
            frame = next(self._frames, None)
            self._next += 1
        if frame is None:
            raise InputError(
                f"The film of alpha maps {shown(self.source.path)} ends before frame {number}; it must have a map for each frame. "
                "Nothing was written."
            )
        return self._of(frame, number)

    def _read(self, skip: int) -> Iterator[Frame]:
        for picture in Reader(self.source, skip=skip):
            yield picture.rgb

    def _of(self, frame: Frame, number: int) -> AlphaMap:
        low, high = frame.min(axis=2), frame.max(axis=2)
        if int((high - low).max()) > COLOURED:
            raise InputError(
                f"The film of alpha maps {shown(self.source.path)} is coloured at frame {number}; a map has one number per pixel. "
                "Nothing was written."
            )
        return AlphaMap.of(frame[..., 1]).snapped(self._levels, CODING / 255 + 1e-9)
