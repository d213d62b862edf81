"""OSC: real datagrams over loopback, every kind of bad one, and a flood; python-osc is the sender."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("pythonosc")

from hypothesis import given
from hypothesis import strategies as st
from pythonosc.osc_bundle_builder import IMMEDIATELY, OscBundleBuilder
from pythonosc.osc_message_builder import OscMessageBuilder
from pythonosc.udp_client import SimpleUDPClient

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.control.osc import OscAlphaListener, parse_messages
from dni_deploy.control.shared_alpha import SharedAlpha
from dni_deploy.errors import BusyError, UsageError
from tests.dni_deploy.control.listening import FOUR, Told, new_cell, until

FLOAT32 = 2.0**-23
"""OSC's numbers have 24 bits."""


class Rig:
    """A cell, a feeder on a free port, and a client of it."""

    def __init__(self, cell: SharedAlpha, plane: ControlPlane | None = None) -> None:
        self.cell, self.told = cell, Told()
        self.feeder = OscAlphaListener(cell, 0, plane=plane, report=self.told)
        self.feeder.start()
        self.client = SimpleUDPClient("127.0.0.1", self.feeder.port)

    def send(self, datagram: bytes) -> None:
        self.client._sock.sendto(datagram, ("127.0.0.1", self.feeder.port))

    def shares(self) -> tuple[float, ...]:
        return self.cell.read().requested.values


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig(new_cell())
    yield made
    made.feeder.close()


def bundle(*alphas: float, at: float | int = IMMEDIATELY) -> bytes:
    builder = OscBundleBuilder(at)  # type: ignore[arg-type]
    for alpha in alphas:
        message = OscMessageBuilder("/dni/alpha")
        message.add_arg(alpha)
        builder.add_content(message.build())
    return bytes(builder.build().dgram)


def test_alpha(rig: Rig) -> None:
    for count, alpha in enumerate((0.25, 1, 0.0, 0.75), 1):
        rig.client.send_message("/dni/alpha", alpha)
        until(lambda count=count: rig.feeder.accepted_count == count)  # type: ignore[misc]
        assert rig.shares() == (alpha, 1 - alpha)
        assert rig.cell.read().source == "OSC"
    rig.client.send_message("/dni/alpha/gan", 0.25)
    until(lambda: rig.shares() == (0.75, 0.25))
    rig.client.send_message("/dni/shares", [0.1, 0.9])
    until(lambda: rig.feeder.accepted_count == 6)
    assert rig.shares() == pytest.approx((0.1, 0.9), abs=FLOAT32)


def test_four_on_a_plane() -> None:
    rig = Rig(new_cell(FOUR), ControlPlane.default(FOUR))
    with rig.feeder:
        rig.client.send_message("/dni/plane", [0.25, 0.5])
        until(lambda: rig.shares() == (0.375, 0.125, 0.375, 0.125))
        rig.client.send_message("/dni/alpha/m", 0.75)
        until(lambda: rig.feeder.accepted_count == 2)
        assert rig.shares()[0] == 0.75
        rig.client.send_message("/dni/alpha", 0.5)
        until(lambda: rig.feeder.refused_count == 1)
    assert "family has 4" in rig.told.sentences[0]


@pytest.mark.parametrize(
    ("address", "values"),
    [
        ("/dni/alpha", float("nan")),
        ("/dni/alpha", float("inf")),
        ("/dni/alpha", 3.4e38),
        ("/dni/alpha", -0.5),
        ("/dni/alpha", 2**31 - 1),
        ("/dni/alpha", []),
        ("/dni/alpha", [0.1, 0.2]),
        ("/dni/alpha", "half"),
        ("/dni/alpha", b"\x00\xff"),
        ("/dni/alpha", True),
        ("/dni/alpha", None),
        ("/dni/alpha/other", 0.5),
        ("/dni/alpha/gan", float("nan")),
        ("/dni/alpha/", 0.5),
        ("/dni/shares", [0.5, 0.6]),
        ("/dni/shares", [0.5] * 100),
        ("/dni/plane", [0.5, 0.5]),
        ("/dni/quit", 1),
        ("/elsewhere", 0.5),
    ],
)
def test_messages_that_cannot_be_used(rig: Rig, address: str, values: object) -> None:
    rig.client.send_message(address, values)  # type: ignore[arg-type]
    rig.client.send_message(address, values)  # type: ignore[arg-type]
    rig.client.send_message("/dni/alpha", 0.25)
    until(lambda: rig.feeder.accepted_count == 1)
    # Of two to one address, both or only the last may have been looked at.
    assert rig.feeder.refused_count + rig.feeder.superseded_count in (1, 2)
    assert rig.shares() == (0.25, 0.75)
    assert all(sentence.isprintable() for sentence in rig.told.sentences)


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"x",
        b"/dni/alpha",
        b"/dni/alpha\0\0",
        b"/dni/alpha\0\0,ff\0\0",
        b"/dni/alpha\0\0,fffffffffffffffffff\0",
        b"/\xff\xfe\0,f\0\0\0\0\0\0",
        b"#bundle\0",
        b"#bundle\0" + b"\0" * 8 + b"\0\0\0\x10",
        b"#bundle\0" + b"\0" * 8 + b"\xff\xff\xff\xff",
        b"#bundle\0" + b"\0" * 8 + b"\0\0\0\0",
        b"#bundle\0" + b"\0" * 8 + b"\0\0",
        b"\0" * 60_000,
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_datagrams_that_are_not_osc(rig: Rig, datagram: bytes) -> None:
    rig.send(datagram)
    until(lambda: rig.feeder.refused_count == 1)
    rig.client.send_message("/dni/alpha", 0.25)
    until(lambda: rig.feeder.accepted_count == 1)
    assert len(rig.told.sentences) == 1


def test_zeros_that_some_senders_leave_out(rig: Rig) -> None:
    """python-osc knows of one that cuts the zeros off a number's end."""
    rig.send(b"/dni/alpha\0\0,f\0\0" + struct.pack(">f", 0.5).rstrip(b"\0"))
    until(lambda: rig.feeder.accepted_count == 1)
    assert rig.shares() == (0.5, 0.5)


def test_a_bundle_in_a_bundle_without_end(rig: Rig) -> None:
    inner = bundle(0.5)
    for _ in range(2000):
        inner = b"#bundle\0" + struct.pack(">Qi", 1, len(inner)) + inner
    rig.send(inner)
    until(lambda: rig.feeder.refused_count == 1)


anything = st.one_of(
    st.binary(max_size=64),
    st.binary(max_size=40).map(lambda tail: b"#bundle\0" + tail),
    st.binary(max_size=30).map(lambda tail: b"/dni/alpha\0\0," + tail),
)


@given(anything)
def test_any_datagram_is_messages_or_one_sentence(datagram: bytes) -> None:
    told = "x"
    try:
        list(parse_messages(datagram))
    except UsageError as error:
        told = str(error)
    assert told.isprintable()


def test_bundles(rig: Rig) -> None:
    rig.send(bundle(0.1, 0.5))
    until(lambda: rig.feeder.accepted_count == 2)
    assert rig.shares() == (0.5, 0.5)
    now = time.time()
    rig.send(bundle(0.25, at=now))
    rig.send(bundle(0.75, at=now - 0.5))  # overtaken on the way
    rig.client.send_message("/dni/alpha/gan", 0.25)
    until(lambda: rig.feeder.accepted_count == 4)
    assert rig.feeder.refused_count == 1
    assert "came late" in rig.told.sentences[0]
    rig.send(bundle(0.125, at=now - 3600))  # its clock was set back: not late for ever
    until(lambda: rig.feeder.accepted_count == 5)
    assert rig.shares() == (0.125, 0.875)


def test_a_flood_ends_with_the_last_value(rig: Rig) -> None:
    bad = b"/dni/alpha\0\0,f\0\0" + struct.pack(">f", float("nan"))
    for step in range(20_000):
        rig.send(bad) if step % 3 == 0 else rig.client.send_message("/dni/alpha", step % 100 / 128)
    until(lambda: _settled(rig))
    rig.client.send_message("/dni/alpha", 0.625)
    until(lambda: rig.shares() == (0.625, 0.375))
    assert len(rig.told.sentences) <= 1
    rig.feeder.close()
    assert len(rig.told.sentences) <= 2


def _settled(rig: Rig) -> bool:
    before = rig.feeder.accepted_count + rig.feeder.refused_count + rig.feeder.superseded_count
    time.sleep(0.05)
    return rig.feeder.accepted_count + rig.feeder.refused_count + rig.feeder.superseded_count == before


def test_ports() -> None:
    first = OscAlphaListener(new_cell(), 0)
    with first:
        assert first.port > 0
        with pytest.raises(BusyError, match=f"127.0.0.1 port {first.port}: another program has it") as caught:
            OscAlphaListener(new_cell(), first.port).start()
        assert caught.value.exit_code == 9
    with OscAlphaListener(new_cell(), first.port):
        pass  # it was given back
    for port in (-1, 1 << 16):
        with pytest.raises(UsageError, match="not a port"):
            OscAlphaListener(new_cell(), port).start()
    with pytest.raises(UsageError, match=r"not an address of this machine|no such address"):
        OscAlphaListener(new_cell(), 0, "192.0.2.1").start()  # kept for documentation: nobody's


def test_it_can_be_closed_and_started_again() -> None:
    feeder = OscAlphaListener(new_cell(), 0, report=Told())
    feeder.close()
    for _ in range(3):
        feeder.start()
        feeder.start()
        feeder.close()
        feeder.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", feeder.port))


def test_first_alpha_of_the_cell_stays_until_one_comes(rig: Rig) -> None:
    assert rig.cell.read().coefficients == Coefficients.one_hot("psnr", ("psnr", "gan"))
