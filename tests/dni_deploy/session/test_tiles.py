"""Tiles of a frame: joined as the whole frame, with one alpha, several under way."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.errors import EngineError
from dni_deploy.session.session import Session
from dni_deploy.session.tiles import render_tiled
from dni_deploy.signature import Signature
from tests.support.frame_session import Dimmer

MEMBERS = ("bright", "dark")


class Overlapping(Dimmer):
    """Counts the most frames that were in it at once; the first one waits for a second, if there is to be one."""

    def __init__(self, expects_two: bool) -> None:
        super().__init__((1.0, 0.5))
        self.both = threading.Barrier(2, timeout=20)
        self.expects_two, self.tiles = expects_two, 0

    def render(self, slot: int, frame: Any, signature: Signature) -> NDArray[Any]:
        self.tiles += 1
        if self.expects_two:
            self.both.wait()
        return super().render(slot, frame, signature)


@pytest.mark.parametrize(("tile", "tiles"), [(None, 1), (20, 6), (25, 4)])
def test_tiles_are_the_whole_frame_and_overlap(tile: int | None, tiles: int) -> None:
    engine = Overlapping(expects_two=tiles > 1)
    frame = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    with Session(engine, MEMBERS, Signature(radius=0), Coefficients((*MEMBERS,), (0.0, 1.0))) as session:
        rendered = render_tiled(session, frame, tile, 0)
    assert engine.tiles == tiles
    assert np.array_equal(rendered.output, np.rint(frame * np.float32(0.5)))
    assert (rendered.generation, rendered.coefficients.values) == (1, (0.0, 1.0))


def test_the_error_of_a_tile_is_that_of_the_frame() -> None:
    engine = Dimmer((1.0, 0.5), broken=17)
    with (
        Session(engine, MEMBERS, Signature(radius=0), Coefficients.one_hot("bright", MEMBERS)) as session,
        pytest.raises(EngineError, match="NaN or infinite"),
    ):
        render_tiled(session, np.zeros((40, 50, 3), np.uint8), 17, 0)
