"""Feeders: those that a user asked for, opened together and closed together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any

from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.control.listener import AlphaListener
from dni_deploy.control.message_handler import ReportMessage
from dni_deploy.control.shared_alpha import SharedAlpha
from dni_deploy.control.stdin import StdinAlphaListener
from dni_deploy.errors import UsageError, escape_name
from dni_deploy.utils.optional_packages import import_optional


@contextmanager
def open_listeners(
    shared_alpha: SharedAlpha,
    *,
    osc: int | None = None,
    http: int | None = None,
    http_token: str | None = None,
    requires_http_token: bool = True,
    midi: str | None = None,
    lines: IO[Any] | None = None,
    plane: ControlPlane | None = None,
    note: Callable[[str], None] = lambda sentence: None,
    report: ReportMessage | None = None,
) -> Iterator[tuple[AlphaListener, ...]]:
    """What sets the cell from outside, until the block is left.

    osc, http   ports on loopback, 0 for any that is free.
    http_token  the secret of the HTTP port, None for a random one, which note is told; requires_http_token False: none is needed.
    midi        "1" (a controller), "1@nanoKONTROL" (and a part of the input's name), "20=psnr,21=gan" (a controller each).
    lines       a stream of lines.
    plane       what points mean.
    note        is told of each where it listens; tell: as in Steering.
    Raises UsageError, BusyError, UnavailableError (a package that is missing, naming its extra; no MIDI here).
    """
    found: list[AlphaListener] = []
    with ExitStack() as stack:
        if osc is not None:
            by_osc = import_optional("dni_deploy.control.osc").OscAlphaListener(shared_alpha, osc, plane=plane, report=report)
            found.append(stack.enter_context(by_osc))
            note(f"Alpha is set live by OSC on UDP port {by_osc.port} of this machine.")
        if http is not None:
            by_http = import_optional("dni_deploy.control.http").HttpAlphaListener(
                shared_alpha, http, token=http_token, requires_token=requires_http_token, plane=plane, report=report
            )
            found.append(stack.enter_context(by_http))
            secret = f", with the header Authorization: Bearer {by_http.token}" if by_http.token else ""
            note(f"Alpha is set live by HTTP: PUT http://127.0.0.1:{by_http.port}/alpha{secret}")
        if midi is not None:
            controls, name = parse_midi_option(midi)
            by_midi = import_optional("dni_deploy.control.midi").MidiAlphaListener(
                shared_alpha, name, controls, plane=plane, report=report
            )
            found.append(stack.enter_context(by_midi))
            note(f"Alpha is set live by MIDI from {escape_name(by_midi.port_name)}.")
        if lines is not None:
            found.append(stack.enter_context(StdinAlphaListener(shared_alpha, lines, plane=plane, report=report)))
        yield tuple(found)


def parse_midi_option(text: str) -> tuple[int | dict[int, str], str | None]:
    """The controllers, and the part of a name or None. Raises UsageError."""
    controls, at, name = text.partition("@")
    if at and not name.strip():
        raise UsageError(f"{escape_name(text, 60)!r} names no MIDI input after the @; leave it out for the first there is.")
    found: dict[int, str] = {}
    for part in controls.split(","):
        number, equals, target = part.partition("=")
        if (
            not (number.strip().isascii() and number.strip().isdigit())
            or len(number.strip()) > 3
            or (equals and not target.strip())
        ):
            raise UsageError(f"{escape_name(text, 60)!r} is not a MIDI controller; write 1, 1@NAME, or 20=psnr,21=gan.")
        if int(number) in found:
            raise UsageError(f"{escape_name(text, 60)!r} names the MIDI controller {int(number)} twice.")
        found[int(number)] = target.strip()
    return found, name.strip() or None
