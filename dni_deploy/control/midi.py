"""Alpha from MIDI knobs and faders, by control change messages.

One knob is the first of two members; several knobs are several members' shares; two are the x and y of a plane. Controllers 0
to 31 may come as pairs with 32 to 63 (14 bits), which is detected.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import mido

from dni_deploy.alpha.member_names import find_member
from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.control.listener import AlphaListener
from dni_deploy.control.message_handler import AlphaMessageHandler, ReportMessage
from dni_deploy.control.shared_alpha import SharedAlpha
from dni_deploy.errors import UnavailableError, UsageError, escape_name
from dni_deploy.utils.install_line import format_install_line

LSB_CONTROLLER_OFFSET = 32
"""Controller n has its least significant byte in n + 32. Source: MIDI 1.0, control change messages 32 to 63."""


class ControlChangeHandler:
    """Sets alpha by control changes; needs no MIDI port."""

    def __init__(self, handler: AlphaMessageHandler, controls: Mapping[int, str], channel: int | None = None) -> None:
        """Creates a handler.

        Args:
            handler: Applies each value to the shared alpha.
            controls: Target by controller, 0 to 127: "" for alpha (two members), the name of a member or of a number that the
                network takes beside the image, or "x" or "y" of the plane.
            channel: MIDI channel, 0 to 15; None for all.

        Raises:
            UsageError: There is no such controller or target.
        """
        names = ", ".join(map(escape_name, handler.shared_alpha.members))
        axes = ("x", "y") if handler.plane is not None else ()
        self._network_controls = {control.name: control for control in handler.shared_alpha.controls}
        known = {"", *handler.shared_alpha.members, *self._network_controls, *axes}
        members = handler.shared_alpha.members
        controls = {
            control: target if target in known else find_member(target, members) or target
            for control, target in controls.items()
        }
        for control, target in controls.items():
            if not 0 <= control < 128 or target not in known:
                raise UsageError(
                    f"MIDI controller {control} for {escape_name(target)!r}: controllers are 0 to 127, each for a member"
                    f"{' or for x or y' if axes else ''}; the members are {names}."
                )
        self.handler, self.controls, self.channel = handler, dict(controls), channel
        self._coarse: dict[int, int] = {}
        self._fine: dict[int, int] = {}  # of the controllers that have one
        self._point = [0.5, 0.5]

    def handle_message(self, message: Any) -> None:
        """Handles one message; ignores one that is not a control change of a known controller.

        Args:
            message: A message of mido.
        """
        if message.type != "control_change" or self.channel not in (None, message.channel):
            return
        control, value = message.control, message.value
        if control in self.controls:
            self._set_coarse(control, value)
        elif LSB_CONTROLLER_OFFSET <= control < 2 * LSB_CONTROLLER_OFFSET and control - LSB_CONTROLLER_OFFSET in self.controls:
            control -= LSB_CONTROLLER_OFFSET
            self._fine[control] = value
            if control not in self._coarse:
                return
        else:
            return
        self.handler.handle_safely(lambda: self._apply_value(self.controls[control], self._read_value(control)))

    def _set_coarse(self, control: int, value: int) -> None:
        """Takes the most significant byte of a value.

        That of a pair is followed by the other in a moment: until then the value is the one nearest to the one before, so that
            no
        value overshoots.
        """
        before = self._coarse.get(control, value)
        self._coarse[control] = value
        if control in self._fine and value != before:
            self._fine[control] = 0 if value > before else 127

    def _read_value(self, control: int) -> float:
        if control in self._fine:
            return (self._coarse[control] << 7 | self._fine[control]) / 16383
        return self._coarse[control] / 127

    def _apply_value(self, target: str, value: float) -> None:
        if target in ("x", "y") and self.handler.plane is not None and target not in self.handler.shared_alpha.members:
            self._point["xy".index(target)] = value
            self.handler.set_point(*self._point)
        elif target in self._network_controls:
            control = self._network_controls[target]
            self.handler.set_control(target, control.low + value * (control.high - control.low))
        elif target:
            self.handler.set_coefficient(target, value)
        else:
            self.handler.set_alpha(value)


class MidiAlphaListener(AlphaListener):
    """Listens to a MIDI input.

    Attributes:
        port_name: The whole name of the input, after `start`.
    """

    source = "MIDI"

    def __init__(
        self,
        shared_alpha: SharedAlpha,
        port_name: str | None = None,
        control: int | Mapping[int, str] = 1,
        *,
        channel: int | None = None,
        plane: ControlPlane | None = None,
        report: ReportMessage | None = None,
    ) -> None:
        """Creates a listener that is not started.

        Args:
            shared_alpha: What is set.
            port_name: The name of a MIDI input or a part of it; None for the first input.
            control: The controller of alpha, or targets by controller as in ControlChangeHandler.
            channel: MIDI channel, 0 to 15; None for all.
            plane: What a point means; None refuses points.
            report: As in AlphaMessageHandler.

        Raises:
            UsageError: There is no such controller or target.
        """
        super().__init__(shared_alpha, plane=plane, report=report)
        self.port_name = port_name
        self.control_changes = ControlChangeHandler(
            self.handler, {control: ""} if isinstance(control, int) else control, channel
        )

    def _open_input(self) -> None:
        names = list_inputs()
        matches = [name for name in names if self.port_name is None or self.port_name in name]
        if not matches:
            called = None if self.port_name is None else escape_name(self.port_name)
            missing = "There is no MIDI input" if called is None else f"No MIDI input is called {called!r}"
            raise UsageError(f"{missing}; there are: {', '.join(map(escape_name, names)) or 'none'}.")
        try:
            self._port = mido.open_input(matches[0], callback=self.control_changes.handle_message)
        except Exception as error:  # rtmidi has exceptions of its own
            raise UnavailableError(
                f"The MIDI input {escape_name(matches[0])} cannot be opened ({escape_name(error)})."
            ) from None
        self.port_name = matches[0]

    def _run(self) -> None:
        self._stopping.wait()  # the port calls in a thread of its own

    def _close_input(self) -> None:
        with suppress(Exception):  # it may have been unplugged
            self._port.close()


def list_inputs() -> list[str]:
    """Lists the names of the MIDI inputs of this machine.

    Raises:
        UnavailableError: There is no MIDI sequencer, or python-rtmidi is not installed.
    """
    try:
        return list(mido.get_input_names())
    except ModuleNotFoundError:
        raise UnavailableError(
            f"This needs the package 'rtmidi', which is not installed: {format_install_line('midi')}"
        ) from None
    except Exception as error:  # SystemError where there is no ALSA sequencer
        raise UnavailableError(
            f"This machine has no MIDI ({escape_name(error, 120)}); on Linux it is the kernel's ALSA sequencer (snd_seq)."
        ) from None
