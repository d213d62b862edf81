"""A web UI server over a minimal engine, whose members differ in the brightness of the output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.blending.control_settings import ControlSettings
from dni_deploy.control.address import LOOPBACK
from dni_deploy.control.shared_alpha import SharedAlpha
from dni_deploy.imaging.frames import Frame
from dni_deploy.network_controls import Control
from dni_deploy.session.session import Session
from dni_deploy.signature import Signature
from dni_deploy.webui.app import AppState
from dni_deploy.webui.commands import CommandLines
from dni_deploy.webui.frame_source import FrameSource, SourceFrame, StillImage
from dni_deploy.webui.guard import PageLimits
from dni_deploy.webui.pixel_blend import PixelBlend
from dni_deploy.webui.renderer import Renderer
from dni_deploy.webui.server import PageServer, open_listening_sockets
from tests.support.frame_session import Dimmer

TOKEN = "a-token-of-the-tests"
NAMES = ("bright", "dark", "middle", "dim", "faint")
FACTORS = (1.0, 0.2, 0.6, 0.4, 0.3)
SIZE = (64, 48)


def gray(level: int = 200, width: int = 64, height: int = 48) -> Frame:
    return np.full((height, width, 3), level, np.uint8)


def photograph(width: int = 320, height: int = 180) -> Frame:
    """Returns a photograph, for screenshots."""
    from PIL import Image

    from dni_deploy.imaging.image_file import read_image
    from dni_deploy.webui.sources import DEFAULT_IMAGE

    with Image.fromarray(read_image(str(DEFAULT_IMAGE)).rgb) as image:
        side = image.width
        return np.asarray(image.crop((0, 0, side, side * 9 // 16)).resize((width, height)))


class MovingSource:
    """A video source with the requested frame rate; the brightness of each frame encodes its number."""

    is_moving = True
    name = "a clock"

    def __init__(self, rate: float = 100.0, frame: Frame | None = None) -> None:
        self.rate, self.given, self.closed = rate, -1, 0
        self.frame = gray() if frame is None else frame

    def get_frame(self, seconds: float) -> SourceFrame:
        self.given = int(seconds * self.rate)
        return SourceFrame(np.roll(self.frame, self.given % 64, axis=1), self.given)

    def seconds_until_next(self, seconds: float) -> float:
        return max(0.0, (self.given + 1) / self.rate - seconds)

    def locate(self, seconds: float) -> None:
        return None

    def close(self) -> None:
        self.closed += 1


def make_session(members: tuple[str, ...], alpha: Any = None, scale: int = 1, controls: tuple[Control, ...] = ()) -> Session:
    first = Coefficients.one_hot(members[0], members) if alpha is None else Coefficients.parse(alpha, members)
    settings = ControlSettings.make_default(controls, ["factor", *(control.weight_name for control in controls)])
    signature = Signature(radius=0, scale=scale, controls=controls)
    return Session(Dimmer(FACTORS[: len(members)], scale), members, signature, first, controls=settings)


class PageFixture(NamedTuple):
    page: PageServer
    state: AppState
    renderer: Renderer
    shared_alpha: SharedAlpha

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.page.port}"

    @property
    def frames(self) -> str:
        return f"ws://127.0.0.1:{self.page.port}/frames?token={TOKEN}"


@contextmanager
def open_renderer(count: int = 2, source: FrameSource | None = None, scale: int = 1, **options: Any) -> Iterator[Renderer]:
    """Yields a started renderer; everything is closed afterwards."""
    members = NAMES[:count]
    controls = options.pop("controls", ())
    with make_session(members, scale=scale, controls=controls) as live:
        shared_alpha = SharedAlpha(members, live.alpha, slew=options.pop("slew", None), controls=controls)
        blend = PixelBlend(members, lambda member: make_session(members, {member: 1.0}, scale))
        renderer = Renderer(
            live, shared_alpha, source or StillImage(gray(), "a gray image", SIZE), pixel_blend=blend, **options
        )
        renderer.start()
        try:
            yield renderer
        finally:
            renderer.close()
            blend.close()


@contextmanager
def serve_page(
    count: int = 2,
    source: FrameSource | None = None,
    limits: PageLimits | None = None,
    slider: list[list[float]] | None = None,
    **options: Any,
) -> Iterator[PageFixture]:
    """Runs a web UI server on a free port in a thread. slider: points of a perceptual slider."""
    members = NAMES[:count]
    plane = ControlPlane.default(members) if count in (3, 4) else None
    facts = {
        "members": list(members), "plane": None if plane is None else {name: list(place) for name, place in plane.places},
        "timeline": None, "engine": "dimmer", "name": "dimmer.dni", "scale": 1, "fps": 60, "upload": 1 << 26, "video_upload": 1 << 31,
        "slider": slider,
    }  # fmt: skip
    with open_renderer(count, source, **options) as renderer:
        commands = CommandLines("dimmer.dni", "in.mp4" if renderer.status[1]["is_moving"] else None, True)
        state = AppState(renderer, renderer.shared_alpha, plane, facts, SIZE, limits or PageLimits(), commands)
        with PageServer(state, open_listening_sockets(LOOPBACK, 0), TOKEN, LOOPBACK) as page:
            yield PageFixture(page, state, renderer, renderer.shared_alpha)
