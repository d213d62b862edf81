"""MIDI: raw byte streams, and fake ports, since a test machine has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest

pytest.importorskip("mido")

import mido

from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.control.message_handler import AlphaMessageHandler
from dni_deploy.control.midi import ControlChangeHandler, MidiAlphaListener, list_inputs
from dni_deploy.control.shared_alpha import SharedAlpha
from dni_deploy.errors import UnavailableError, UsageError
from tests.dni_deploy.control.listening import FOUR, THREE, TWO, RecordedReports, new_shared_alpha

CLOSE = 1e-12
"""Rounding of 1 minus a coefficient and of the largest coefficient."""


class ByteHandler(ControlChangeHandler):
    """Handles raw MIDI bytes, split anywhere."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.parser = mido.Parser()

    def parse_bytes(self, data: bytes) -> None:
        self.parser.feed(data)
        for message in self.parser:
            self.handle_message(message)


def knobs(
    members: tuple[str, ...] = TWO, controls: Mapping[int, str] | None = None, **options: Any
) -> tuple[SharedAlpha, ByteHandler]:
    shared_alpha = new_shared_alpha(members)
    plane = ControlPlane.default(members) if len(members) > 2 else None
    return shared_alpha, ByteHandler(
        AlphaMessageHandler(shared_alpha, "MIDI", plane, RecordedReports()),
        {1: ""} if controls is None else controls,
        **options,
    )


def control(number: int, value: int) -> bytes:
    return bytes([0xB0, number, value])


def test_a_knob_of_seven_bits_sets_alpha() -> None:
    shared_alpha, knob = knobs()
    for value in (0, 1, 64, 127):
        knob.parse_bytes(bytes([0xB0, 1, value]))
        assert shared_alpha.read().requested.values[0] == value / 127
    assert knob.handler.accepted_count == 4


def test_split_bytes_are_joined_and_other_messages_ignored() -> None:
    shared_alpha, knob = knobs(channel=2)
    stream = bytes([0xB2, 1, 10, 0xB2, 1, 20, 0xF8, 0xB3, 1, 99, 0x92, 60, 100, 0xB2, 7, 55, 0xF0, 1, 2, 0xF7, 0xB2, 1, 30])
    for byte in stream:
        knob.parse_bytes(bytes([byte]))
    assert shared_alpha.read().requested.values[0] == 30 / 127
    assert (knob.handler.accepted_count, knob.handler.refused_count) == (3, 0)


def test_a_pair_of_controllers_has_fourteen_bits() -> None:
    shared_alpha, knob = knobs()
    for value in (0, 1, 8191, 8192, 16383):
        knob.parse_bytes(control(1, value >> 7) + control(33, value & 127))
        assert shared_alpha.read().requested.values[0] == value / 16383
    assert knob.handler.refused_count == 0


@pytest.mark.parametrize("step", [1, 3, -1, -3])
def test_a_pair_never_overshoots_between_its_halves(step: int) -> None:
    """A frame may be rendered between the coarse and the fine byte: the value then lies between the old and the new one."""
    shared_alpha, knob = knobs()
    values = list(range(8000, 8400))[::step]
    knob.parse_bytes(control(1, values[0] >> 7) + control(33, values[0] & 127))
    for before, value in pairwise(values):
        values_read = []
        for part in (control(1, value >> 7), control(33, value & 127)):
            knob.parse_bytes(part)
            values_read.append(shared_alpha.read().requested.values[0] * 16383)
        assert min(before, value) - 1e-6 <= values_read[0] <= max(before, value) + 1e-6
        assert values_read[1] == pytest.approx(value, abs=1e-6)


def test_a_least_significant_byte_alone_sets_nothing() -> None:
    shared_alpha, knob = knobs()
    knob.parse_bytes(bytes([0xB0, 33, 64]))
    assert shared_alpha.state.sequence == 0


def test_knobs_set_members_or_a_point() -> None:
    shared_alpha, knob = knobs(THREE, {20: "b", 21: "C"})
    knob.parse_bytes(bytes([0xB0, 20, 127]))
    assert shared_alpha.read().requested.values == (0, 1, 0)
    knob.parse_bytes(control(21, 0) + control(20, 0))
    assert shared_alpha.read().requested.values == pytest.approx((0.5, 0, 0.5), abs=CLOSE)
    shared_alpha, knob = knobs(FOUR, {10: "x", 11: "y"})
    knob.parse_bytes(control(10, 0) + control(11, 0))
    assert shared_alpha.read().requested.values == (1, 0, 0, 0)
    knob.parse_bytes(control(10, 127) + control(11, 127))
    assert shared_alpha.read().requested.values == (0, 0, 0, 1)


def test_a_knob_for_alpha_of_three_members_is_refused_and_stops_nothing() -> None:
    shared_alpha, knob = knobs(THREE)
    knob.parse_bytes(control(1, 64) + control(1, 65))
    assert (knob.handler.refused_count, shared_alpha.state.sequence) == (2, 0)


@pytest.mark.parametrize("controls", [{128: ""}, {-1: ""}, {1: "nobody"}, {1: "x"}])
def test_a_controller_without_a_target_is_refused(controls: dict[int, str]) -> None:
    with pytest.raises(UsageError, match="MIDI controller"):
        knobs(TWO, controls)


def test_bytes_that_are_not_messages_are_ignored() -> None:
    shared_alpha, knob = knobs()
    knob.parse_bytes(bytes(range(256)) * 40)
    knob.parse_bytes(bytes([0xF7, 0xB0, 1, 127]))
    assert shared_alpha.read().requested.values == (1, 0)


class StandIn:
    """A fake mido port: keeps the callback that it was opened with."""

    def __init__(self, name: str, callback: Callable[[Any], None]) -> None:
        self.name, self.callback, self.closed = name, callback, False

    def close(self) -> None:
        self.closed = True


def test_a_listener_opens_the_input_of_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[StandIn] = []
    monkeypatch.setattr(mido, "get_input_names", lambda: ["Through 14:0", "nanoKONTROL2 20:0"])
    monkeypatch.setattr(mido, "open_input", lambda name, callback: opened.append(StandIn(name, callback)) or opened[-1])
    shared_alpha = new_shared_alpha()
    with MidiAlphaListener(shared_alpha, "nanoKONTROL", 16, report=RecordedReports()) as listener:
        assert listener.port_name == opened[0].name == "nanoKONTROL2 20:0"
        opened[0].callback(mido.Message("control_change", control=16, value=127))
        opened[0].callback(mido.Message("control_change", control=16, value=0))
        assert listener.accepted_count == 2
        assert shared_alpha.read().requested.values == (0, 1)
    assert opened[0].closed
    with MidiAlphaListener(shared_alpha) as listener:
        assert listener.port_name == "Through 14:0"
    with pytest.raises(UsageError, match="No MIDI input is called 'other'; there are: Through 14:0, nano"):
        MidiAlphaListener(shared_alpha, "other").start()
    monkeypatch.setattr(mido, "get_input_names", list)
    with pytest.raises(UsageError, match="no MIDI input; there are: none"):
        MidiAlphaListener(shared_alpha).start()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SystemError("MidiInAlsa::initialize: error creating ALSA sequencer client object."), "no MIDI .*snd_seq"),
        (ModuleNotFoundError("No module named 'rtmidi'", name="rtmidi"), r"pip install .*\[midi\]"),
    ],
)
def test_missing_midi_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def names() -> list[str]:
        raise error

    monkeypatch.setattr(mido, "get_input_names", names)
    with pytest.raises(UnavailableError, match=message) as caught:
        MidiAlphaListener(new_shared_alpha()).start()
    assert str(caught.value).isprintable()


def test_midi_inputs_of_this_machine_are_listed_or_unavailable() -> None:
    """Lists the inputs of this machine, or raises a one-line error."""
    try:
        reports = " ".join(list_inputs())
    except UnavailableError as error:
        reports = str(error)
    assert reports.isprintable()


def test_an_input_that_does_not_open_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, callback: object) -> None:
        raise OSError("busy")

    monkeypatch.setattr(mido, "get_input_names", lambda: ["one"])
    monkeypatch.setattr(mido, "open_input", refuse)
    with pytest.raises(UnavailableError, match="cannot be opened"):
        MidiAlphaListener(new_shared_alpha()).start()
