"""A frame rendered in tiles, several of them under way at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any

from numpy.typing import NDArray

from dni_deploy.alpha.coefficients import Alpha
from dni_deploy.imaging.frames import AnyFrame
from dni_deploy.imaging.rendered import RenderedFrame
from dni_deploy.imaging.tiling import run_tiled
from dni_deploy.session.session import Session


def render_tiled(
    session: Session, frame: AnyFrame, tile: int | None = None, overlap: int | None = None, *, alpha: Alpha | None = None
) -> RenderedFrame:
    """Renders a frame in tiles where it is larger than one; takes and raises what `run_tiled` and `Session.render` do."""
    rendered: list[RenderedFrame] = []

    def render_tiles(tiles: Iterable[AnyFrame]) -> Iterator[NDArray[Any]]:
        for each in session.stream(tiles, alphas=repeat(alpha)):
            rendered[:] = [each]
            yield each.output

    output = run_tiled(render_tiles, frame, session.signature, tile, overlap)
    return RenderedFrame(output, rendered[0].generation, rendered[0].coefficients)
