"""What sets alpha from outside: the listeners that a user chose, opened together and closed together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import IO, Any

from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.control.address import LOOPBACK, ListenAddress
from dni_deploy.control.listener import AlphaListener
from dni_deploy.control.message_handler import ReportMessage
from dni_deploy.control.request_guard import bracket_host
from dni_deploy.control.shared_alpha import SharedAlpha
from dni_deploy.control.stdin import StdinAlphaListener
from dni_deploy.errors import UsageError, escape_name
from dni_deploy.utils.optional_packages import import_optional


@dataclass(frozen=True, kw_only=True)
class ListenerOptions:
    """How alpha is set from outside while frames run.

    Attributes:
        osc: UDP port on loopback that takes OSC messages, 0 for any that is free; or an address and a port, as
            ListenAddress.parse reads them.
        osc_map: What OSC addresses of other programs stand for, such as "/1/fader1=alpha:gan[0..127]".
        http: TCP port on loopback that takes HTTP requests, or an address and a port, as `osc`.
        http_token: The secret that HTTP requests carry; None: a random one, which is part of the note on the port.
        requires_http_token: Whether HTTP requests need the token at all.
        midi: MIDI controllers: "1" (a controller), "1@nanoKONTROL" (and a part of the input's name), "20=psnr,21=gan" (one
            controller for each member).
        lines: A stream of lines, such as stdin.
        plane: What points mean: a control plane, or a JSON file with the members' places.
        slew: Limit of the change of a coefficient, in 1/s, of the shared alpha that a command makes; None: at once.

    Raises:
        UsageError: A token without HTTP, a mapping without OSC, or an address that is none.
    """

    osc: int | str | None = None
    osc_map: Sequence[str] = ()
    http: int | str | None = None
    http_token: str | None = None
    requires_http_token: bool = True
    midi: str | None = None
    lines: IO[Any] | None = None
    plane: ControlPlane | str | os.PathLike[str] | None = None
    slew: float | None = None

    def __post_init__(self) -> None:
        if self.http is None and (self.http_token is not None or not self.requires_http_token):
            raise UsageError("A token is for alpha that is set by HTTP; give --http with it, or leave it out.")
        if self.osc is None and self.osc_map:
            raise UsageError("--osc-map is for alpha that is set by OSC; give --osc with it, or leave it out.")
        if isinstance(self.osc_map, str):
            raise UsageError("osc_map is a list of mappings; got one text.")
        for address in (self.osc, self.http):
            if address is not None:
                ListenAddress.parse(address)

    @property
    def is_live(self) -> bool:
        """Whether there is anything to listen to."""
        return any(value is not None for value in (self.osc, self.http, self.midi, self.lines))

    def read_plane(self, members: Sequence[str]) -> ControlPlane | None:
        """Reads the control plane for these members; None where none was named.

        Raises:
            InputError: The file cannot be read.
            UsageError: It is not a plane for these members.
        """
        if self.plane is None or isinstance(self.plane, ControlPlane):
            return self.plane
        return ControlPlane.read(self.plane, members)


@contextmanager
def open_listeners(
    shared_alpha: SharedAlpha,
    options: ListenerOptions | None = None,
    *,
    note: Callable[[str], None] = lambda sentence: None,
    report: ReportMessage | None = None,
    **keywords: Any,
) -> Iterator[tuple[AlphaListener, ...]]:
    """Opens what sets the shared alpha from outside, until the block is left.

    Args:
        shared_alpha: The alpha to set.
        options: Where to listen.
        note: Called with a sentence for each place that is listened to.
        report: Called with what is wrong with a message; None: it is logged.
        **keywords: Fields of ListenerOptions by name, instead of `options` or to change some of them.

    Yields:
        The listeners, in the order of the options.

    Raises:
        UsageError: A MIDI option that cannot be read.
        BusyError: A port is taken.
        UnavailableError: A package is missing (names its extra), or there is no MIDI here.
    """
    options = replace(options or ListenerOptions(), **keywords)
    settings: dict[str, Any] = {"plane": options.read_plane(shared_alpha.members), "report": report}
    listeners: list[AlphaListener] = []
    with ExitStack() as stack:
        if options.osc is not None:
            address = ListenAddress.parse(options.osc)
            osc = import_optional("dni_deploy.control.osc").OscAlphaListener(
                shared_alpha, address.port, address.host, mappings=options.osc_map, **settings
            )
            listeners.append(stack.enter_context(osc))
            note(f"Alpha is set live by OSC on UDP port {osc.port} of this machine.")
            if not address.is_loopback:
                note(
                    f"Warning: OSC has no password. Whoever reaches {escape_name(address.host, 60)} port {osc.port} can set alpha."
                )
        if options.http is not None:
            address = ListenAddress.parse(options.http)
            http = import_optional("dni_deploy.control.http").HttpAlphaListener(
                shared_alpha,
                address.port,
                address.host,
                token=options.http_token,
                requires_token=options.requires_http_token,
                **settings,
            )
            listeners.append(stack.enter_context(http))
            secret = f", with the header Authorization: Bearer {http.token}" if http.token else ""
            host = "127.0.0.1" if address.host in (LOOPBACK, "0.0.0.0", "::") else bracket_host(address.host)
            note(f"Alpha is set live by HTTP: PUT http://{host}:{http.port}/alpha{secret}")
            if not address.is_loopback:
                note("Warning: HTTP is not encrypted. Other machines can reach it, and whoever reads the token can set alpha.")
        if options.midi is not None:
            controls, name = parse_midi_option(options.midi)
            midi = import_optional("dni_deploy.control.midi").MidiAlphaListener(shared_alpha, name, controls, **settings)
            listeners.append(stack.enter_context(midi))
            note(f"Alpha is set live by MIDI from {escape_name(midi.port_name)}.")
        if options.lines is not None:
            listeners.append(stack.enter_context(StdinAlphaListener(shared_alpha, options.lines, **settings)))
        yield tuple(listeners)


def parse_midi_option(text: str) -> tuple[dict[int, str], str | None]:
    """Parses a MIDI option.

    Args:
        text: "1", "1@nanoKONTROL" or "20=psnr,21=gan".

    Returns:
        The targets by controller, "" where none is named, and a part of the input's name or None.

    Raises:
        UsageError: The text is none of these.
    """
    quoted = repr(escape_name(text, 60))
    controls, at_sign, name = text.partition("@")
    if at_sign and not name.strip():
        raise UsageError(f"{quoted} names no MIDI input after the @; leave it out for the first input.")
    targets: dict[int, str] = {}
    for part in controls.split(","):
        number, equals, target = (word.strip() for word in part.partition("="))
        if not (number.isascii() and number.isdigit()) or len(number) > 3 or (equals and not target):
            raise UsageError(f"{quoted} is not a MIDI controller; write 1, 1@NAME, or 20=psnr,21=gan.")
        if int(number) in targets:
            raise UsageError(f"{quoted} names the MIDI controller {int(number)} twice.")
        targets[int(number)] = target
    return targets, name.strip() or None
