"""Serves a web page with live frames and a slider for alpha."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dni_deploy.alpha import source as alpha_input
from dni_deploy.alpha.coefficients import Alpha, Coefficients
from dni_deploy.alpha.log import AlphaLog
from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.alpha.timeline import AlphaSource
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.control.address import LOOPBACK
from dni_deploy.control.open_listeners import ListenerOptions, open_listeners
from dni_deploy.control.request_guard import is_loopback_host
from dni_deploy.control.shared_alpha import SharedAlpha
from dni_deploy.errors import EngineError, UsageError, escape_name
from dni_deploy.imaging.frames import check_signature
from dni_deploy.session.options import SessionOptions
from dni_deploy.session.session import Session, open_session
from dni_deploy.webui.app import AppState
from dni_deploy.webui.commands import CommandLines
from dni_deploy.webui.guard import PageLimits
from dni_deploy.webui.pixel_blend import PixelBlend
from dni_deploy.webui.renderer import Renderer
from dni_deploy.webui.server import PageServer, choose_token, open_listening_sockets
from dni_deploy.webui.sources import open_frame_source, open_noisy_photograph, parse_size

MAX_FPS = 240


@dataclass(frozen=True, kw_only=True)
class PreviewOptions:
    """How frames get to the page.

    Attributes:
        size: "WIDTHxHEIGHT": frames are scaled down to fit it before they reach the network.
        quality: Quality of the JPEG images, 1 to 95.
        fps: Maximum number of frames per second.

    Raises:
        UsageError: A value is out of range.
    """

    size: str = "640x360"
    quality: int = 80
    fps: float = 60.0

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 95:
            raise UsageError(f"The quality is from 1 to 95, got {escape_name(self.quality, 40)}.")
        if not 1 <= self.fps <= MAX_FPS:
            raise UsageError(f"The frame rate is from 1 to {MAX_FPS}, got {escape_name(self.fps, 40)}.")
        parse_size(self.size)


@dataclass(frozen=True)
class ServeStatus:
    """What is being served.

    Attributes:
        url: The address, with its token.
        members: Names of the members.
        alpha: The first alpha by member name.
        engine: Name of the engine.
        engine_reason: Why this engine was chosen.
        source: What is shown.
        osc: UDP port for OSC; None without.
        warning: What the user should know; empty if nothing.
        notes: Where else alpha is set from, one sentence each.
    """

    url: str
    members: tuple[str, ...]
    alpha: dict[str, float]
    engine: str
    engine_reason: str
    source: str
    osc: int | None
    warning: str
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the report as `--json` prints it."""
        return asdict(self)


@dataclass(frozen=True)
class ServeReport:
    """What was served.

    Attributes:
        frames: Number of frames that were rendered.
        seconds: Time from the start to the end.
    """

    frames: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Returns the report as `--json` prints it."""
        return asdict(self)


def serve(
    bundle: Bundle | str | os.PathLike[str],
    source: str | os.PathLike[str] | None = None,
    *,
    host: str = LOOPBACK,
    port: int = 8765,
    alpha: Alpha | None = None,
    listeners: ListenerOptions | None = None,
    camera: int | None = None,
    preview: PreviewOptions | None = None,
    token: str | None = None,
    alpha_log: str | os.PathLike[str] | None = None,
    force: bool = False,
    options: SessionOptions | None = None,
    limits: PageLimits | None = None,
    on_started: Callable[[ServeStatus, PageServer], None] | None = None,
) -> ServeReport:
    """Serves the web page until Ctrl-C, SIGTERM or `PageServer.stop`.

    Args:
        bundle: The bundle or its path.
        source: An image, or a video file, which is played in a loop; None: the camera, or the photograph that ships with
            the package, with noise if the network removes it.
        host: The address to listen on. Only this machine can connect unless the host says otherwise, which takes a token.
        port: The TCP port; 0: any free port.
        alpha: The first alpha; alpha over time, as open_alpha_source reads it, is followed until somebody moves a control.
            None: equal shares.
        listeners: What sets alpha besides the page; without a plane in it: a triangle for three members, the corners for four.
        camera: Number of the camera to show; None: the source.
        preview: Size, quality and rate of the frames.
        token: The secret in the address; None: a random one.
        alpha_log: A file to write alpha and generation of every frame of the source that is shown to; `alpha` can replay it.
        force: Replace a log that exists.
        options: Options of the session; the page shows its rules.
        limits: Limits of the page's requests.
        on_started: Called in this thread when the page answers.

    Returns:
        What was served.

    Raises:
        UsageError: An option is out of range.
        BusyError: The port is taken.
        InputError: The source cannot be read, or the alpha log not written.
        EngineError: The thread that renders failed.
        DniError: As open_session raises.
    """
    preview = preview or PreviewOptions()
    max_size = parse_size(preview.size)
    page_limits = limits or PageLimits()
    page_token = choose_token(token, host)
    opened = Bundle.ensure_open(bundle)
    check_signature(opened.signature)
    first, timeline = _choose_initial_alpha(alpha, opened.members)
    options, listeners = options or SessionOptions(), listeners or ListenerOptions()
    control_plane = listeners.read_plane(opened.members)
    if control_plane is None and len(opened.members) in (3, 4):
        control_plane = ControlPlane.default(opened.members)

    def open_member(member: str) -> Session:
        return open_session(opened, options, alpha=Coefficients.one_hot(member, opened.members), rules=())

    started = time.perf_counter()
    with ExitStack() as stack:
        listening = open_listening_sockets(host, port)
        for listening_socket in listening:
            stack.callback(listening_socket.close)
        frame_source = open_frame_source(source, max_size, camera)
        closing = stack.enter_context(ExitStack())
        closing.callback(frame_source.close)
        session = stack.enter_context(open_session(opened, options, alpha=first))
        if source is None and camera is None:
            frame_source = open_noisy_photograph(max_size, session) or frame_source
        shared_alpha = SharedAlpha(
            opened.members,
            session.alpha,
            slew=listeners.slew,
            controls=opened.signature.controls,
            control_values=session.controls,
        )
        blend = PixelBlend(opened.members, open_member)
        stack.callback(blend.close)
        log = None
        if alpha_log is not None:  # after the session: one that cannot be opened leaves no empty log
            log = stack.enter_context(AlphaLog(alpha_log, opened.members, opened.digest, force=force))
        renderer = Renderer(
            session,
            shared_alpha,
            frame_source,
            pixel_blend=blend,
            timeline=timeline,
            alpha_log=log,
            quality=preview.quality,
            fps=preview.fps,
        )
        closing.pop_all()  # the source is the stage's now
        stack.callback(renderer.close)
        notes: list[str] = []
        opened_listeners = stack.enter_context(open_listeners(shared_alpha, listeners, plane=control_plane, note=notes.append))
        page_facts = {
            "members": list(opened.members),
            "plane": None if control_plane is None else {name: list(place) for name, place in control_plane.places},
            "slider": None
            if opened.slider is None or len(opened.members) != 2
            else [list(knot) for knot in opened.slider.points],
            "timeline": timeline is not None,
            "engine": session.engine.name,
            "rules": [] if session.rules is None else [str(rule) for rule in session.rules.rules],
            "name": escape_name(Path(os.fspath(bundle)).name if not isinstance(bundle, Bundle) else "bundle", 80),
            "scale": opened.signature.scale,
            "fps": preview.fps,
            "upload": page_limits.max_image_bytes,
            "video_upload": page_limits.max_video_bytes,
        }
        commands = CommandLines(
            os.fspath(opened.path),
            None if source is None else os.fspath(source),
            frame_source.is_moving,
            _format_session_options(options),
        )
        app_state = AppState(renderer, shared_alpha, control_plane, page_facts, max_size, page_limits, commands)
        page = PageServer(app_state, listening, page_token, host)
        serving = ServeStatus(
            page.url,
            opened.members,
            dict(zip(opened.members, session.alpha.values, strict=True)),
            session.engine.name,
            session.engine_reason,
            frame_source.name,
            next((getattr(listener, "port", None) for listener in opened_listeners if listener.source == "OSC"), None),
            ""
            if is_loopback_host(host)
            else f"Other machines can reach this page at port {page.port}; whoever has the token is in.",
            tuple(notes),
        )
        renderer.start()
        page.run(None if on_started is None else lambda: on_started(serving, page))
        frame_count, failure = renderer.frame_count, renderer.failure
    if failure is not None:
        raise EngineError("The thread that renders the frames has failed.") from failure
    if renderer.log_failure is not None:
        raise renderer.log_failure
    return ServeReport(frame_count, time.perf_counter() - started)


def _format_session_options(options: SessionOptions) -> tuple[str, ...]:
    """Returns the options of a command line that change what a frame looks like."""
    precision = () if options.precision is None else ("--precision", options.precision)
    rules = [word for rule in options.rules for word in ("--alpha-for", str(rule))]
    return *precision, *rules


def _choose_initial_alpha(alpha: Alpha | None, members: tuple[str, ...]) -> tuple[Coefficients, AlphaSource | None]:
    """The first coefficients, and alpha over time where it was given."""
    if isinstance(alpha, str):
        source = alpha_input.open_alpha_source(alpha, members)
        return source.at(0.0, 0), None if alpha_input.is_constant(source) else source
    if alpha is None:
        share = 1 / len(members)
        return Coefficients.parse([share] * (len(members) - 1) + [1 - share * (len(members) - 1)], members), None
    return Coefficients.parse(alpha, members), None
