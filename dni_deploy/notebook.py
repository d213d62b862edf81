"""A slider for a notebook: alpha and controls of a session, moved by hand beside a picture of what they do.

import dni_deploy as dni

session = dni.open_session("sr.dni")
dni.widget(session, "in.png")
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Union

import numpy as np

from dni_deploy.alpha.simplex import with_coefficient
from dni_deploy.imaging.frame_encoding import encode_png
from dni_deploy.imaging.frames import AnyFrame, convert_depth
from dni_deploy.imaging.image_file import read_image
from dni_deploy.imaging.transparent_frame import join_transparency
from dni_deploy.session.session import Session
from dni_deploy.utils.optional_packages import import_optional

SMOOTH_SECONDS = 0.15
"""A picture that takes longer is rendered when its slider is released: a notebook works through every step of a drag in turn."""

Picture = Union[str, "os.PathLike[str]", AnyFrame]


def widget(session: Session, picture: Picture) -> Any:
    """Makes sliders for a session's alpha and controls, with a picture that follows them.

    Needs ipywidgets (the extra `notebook`). Two members have one slider, the first member's share; more have one each, and the
    others keep their proportions while one moves. A slider sets `session.alpha` or `session.controls`, so that the next cell
    has what was found.

    Args:
        session: The session; the caller closes it, after the last use of the widget.
        picture: An image file, or a frame as `Session.render` takes it.

    Returns:
        The widget, an ipywidgets.VBox; a notebook shows it where it is the last value of a cell.

    Raises:
        ImageFileError: As `read_image`, like InputError and LimitError, for a file.
        UsageError: As `Session.render`, like its other errors.
        UnavailableError: ipywidgets is not installed.
    """
    frame: Any = picture
    if isinstance(picture, (str, os.PathLike)):
        image_file = read_image(picture, scale=session.signature.scale)
        frame = image_file.rgb if image_file.alpha is None else join_transparency(image_file.rgb, image_file.alpha)
    ipywidgets = import_optional("ipywidgets")
    image = ipywidgets.Image(format="png")

    def show() -> float:
        started = time.perf_counter()
        image.value = encode_png(convert_depth(session(frame), np.uint8), compress_level=1)
        return time.perf_counter() - started

    show()  # the first one also allocates
    continuous = show() < SMOOTH_SECONDS
    return ipywidgets.VBox(
        [*_make_alpha_sliders(session, show, continuous), *_make_control_sliders(session, show, continuous), image]
    )


def _make_alpha_sliders(session: Session, show: Callable[[], object], continuous: bool) -> list[Any]:
    names = session.members[:1] if len(session.members) == 2 else session.members

    def move(member: str, share: float) -> None:
        if share == dict(zip(session.members, session.alpha.values, strict=True))[member]:
            return  # moved below, with another one
        session.alpha = with_coefficient(session.alpha, member, share)
        for slider, value in zip(sliders, session.alpha.values, strict=False):
            slider.value = value
        show()

    sliders = [
        _make_slider(name, share, (0.0, 1.0), partial(move, name), continuous)
        for name, share in zip(names, session.alpha.values, strict=False)
    ]
    return sliders


def _make_control_sliders(session: Session, show: Callable[[], object], continuous: bool) -> list[Any]:
    def move(name: str, value: float) -> None:
        session.controls = {name: value}
        show()

    return [
        _make_slider(
            control.name, session.controls[control.name], (control.low, control.high), partial(move, control.name), continuous
        )
        for control in session.signature.controls
    ]


def _make_slider(
    name: str, value: float, value_range: tuple[float, float], move: Callable[[float], None], continuous: bool
) -> Any:
    low, high = value_range
    slider = import_optional("ipywidgets").FloatSlider(
        value=value, min=low, max=high, step=(high - low) / 100, description=name, continuous_update=continuous
    )
    slider.observe(lambda change: move(change["new"]), names="value")
    return slider
