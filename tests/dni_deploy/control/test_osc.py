"""OSC: real datagrams over loopback, every kind of malformed one, and a flood; python-osc sends them."""

from __future__ import annotations

import math
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from typing import Any

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
from tests.dni_deploy.control.listening import FOUR, RecordedReports, new_shared_alpha, wait_until

FLOAT32 = 2.0**-23
"""OSC numbers are float32, with 24 significant bits."""


class OscFixture:
    """A shared alpha, a listener on a free port, and a client of it."""

    def __init__(self, shared_alpha: SharedAlpha, plane: ControlPlane | None = None, mappings: Sequence[str] = ()) -> None:
        self.shared_alpha, self.reports = shared_alpha, RecordedReports()
        self.listener = OscAlphaListener(shared_alpha, 0, mappings=mappings, plane=plane, report=self.reports)
        self.listener.start()
        self.client = SimpleUDPClient("127.0.0.1", self.listener.port)

    def send(self, datagram: bytes) -> None:
        self.client._sock.sendto(datagram, ("127.0.0.1", self.listener.port))

    def coefficients(self) -> tuple[float, ...]:
        return self.shared_alpha.read().requested.values


@pytest.fixture
def osc() -> Iterator[OscFixture]:
    fixture = OscFixture(new_shared_alpha())
    yield fixture
    fixture.listener.close()


def bundle(*alphas: float, at: float | int = IMMEDIATELY) -> bytes:
    builder = OscBundleBuilder(at)  # type: ignore[arg-type]
    for alpha in alphas:
        message = OscMessageBuilder("/dni/alpha")
        message.add_arg(alpha)
        builder.add_content(message.build())
    return bytes(builder.build().dgram)


def test_messages_set_alpha_and_coefficients(osc: OscFixture) -> None:
    for count, alpha in enumerate((0.25, 1, 0.0, 0.75), 1):
        osc.client.send_message("/dni/alpha", alpha)
        wait_until(lambda count=count: osc.listener.accepted_count == count)  # type: ignore[misc]
        assert osc.coefficients() == (alpha, 1 - alpha)
        assert osc.shared_alpha.read().source == "OSC"
    osc.client.send_message("/dni/alpha/gan", 0.25)
    wait_until(lambda: osc.coefficients() == (0.75, 0.25))
    osc.client.send_message("/dni/shares", [0.1, 0.9])
    wait_until(lambda: osc.listener.accepted_count == 6)
    assert osc.coefficients() == pytest.approx((0.1, 0.9), abs=FLOAT32)


def test_a_point_of_the_plane_sets_alpha() -> None:
    osc = OscFixture(new_shared_alpha(FOUR), ControlPlane.default(FOUR))
    with osc.listener:
        osc.client.send_message("/dni/plane", [0.25, 0.5])
        wait_until(lambda: osc.coefficients() == (0.375, 0.125, 0.375, 0.125))
        osc.client.send_message("/dni/alpha/m", 0.75)
        wait_until(lambda: osc.listener.accepted_count == 2)
        assert osc.coefficients()[0] == 0.75
        osc.client.send_message("/dni/alpha", 0.5)
        wait_until(lambda: osc.listener.refused_count == 1)
    assert "family has 4" in osc.reports.sentences[0]


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
        ("/dni/alpha//", 0.5),
        ("/dni/[alpha", 0.5),
        ("/dni/{alpha", 0.5),
        ("/dni/[z-a]lpha", 0.5),
        ("/dni/*****", 0.5),
        ("/dni/alpha", 1.02),
        ("/dni/alpha", 64),
        ("/dni/shares", [0.5, 0.6]),
        ("/dni/shares", [0.5, 0.502]),
        ("/dni/shares", [0.5] * 100),
        ("/dni/plane", [0.5, 0.5]),
        ("/dni/quit", 1),
        ("/elsewhere", 0.5),
    ],
)
def test_an_invalid_message_changes_nothing(osc: OscFixture, address: str, values: object) -> None:
    osc.client.send_message(address, values)  # type: ignore[arg-type]
    osc.client.send_message(address, values)  # type: ignore[arg-type]
    osc.client.send_message("/dni/alpha", 0.25)
    wait_until(lambda: osc.listener.accepted_count == 1)
    # Of two messages to one address, both or only the last may have been handled.
    assert osc.listener.refused_count + osc.listener.superseded_count in (1, 2)
    assert osc.coefficients() == (0.25, 0.75)
    assert all(sentence.isprintable() for sentence in osc.reports.sentences)


@pytest.mark.parametrize(
    ("address", "values", "expected"),
    [
        ("/dni/alpha/", 0.25, 0.25),
        ("/dni/alpha/gan/", 0.25, 0.75),
        ("/dni/*", 0.25, 0.25),
        ("/dni/*", [0.25, 0.75], 0.25),
        ("/*/alpha", 0.25, 0.25),
        ("/d?i/al[o-q]ha", 0.25, 0.25),
        ("/dni/[!b]lpha", 0.25, 0.25),
        ("/dni/alpha/{psnr,other}", 0.25, 0.25),
        ("/dni/alpha/g*", 0.25, 0.75),
        ("//alpha", 0.25, 0.25),
        ("//gan", 0.25, 0.75),
        ("/dni/alpha", [[0.25, 0.75]], 0.25),
        ("/dni/shares", [[0.25, 0.75]], 0.25),
        ("/dni/alpha", 1.0000001, 1.0),
        ("/dni/alpha", -0.004, 0.0),
        ("/dni/shares", [0.3333, 0.6666], 0.3333 / 0.9999),
        ("/1/fader1", 0.25, 0.25),
        ("/fader", 32, 32 / 127),
        ("/fader", 200, 1.0),
        ("/fader", -5.0, 0.0),
        ("/reversed", 0.25, 0.25),
        ("/reversed", -3.0, 0.0),
        ("/multi", [10.0, 30.0], 0.25),
        ("/1/fader*", 0.25, 0.25),
    ],
)
def test_addresses_are_matched_mapped_and_numbers_clamped(address: str, values: Any, expected: float) -> None:
    mappings = ["/1/fader1/=alpha", "/fader=alpha:psnr[0..127]", "/reversed=alpha:gan[1..0]", "/multi=shares[0..100]"]
    osc = OscFixture(new_shared_alpha(), mappings=mappings)
    with osc.listener:
        osc.shared_alpha.set_alpha(0.5, "test")
        for _ in range(2):
            before = osc.listener.accepted_count + osc.listener.superseded_count
            osc.client.send_message(address, values)
            wait_until(lambda before=before: osc.listener.accepted_count + osc.listener.superseded_count > before)  # type: ignore[misc]
        assert osc.coefficients()[0] == pytest.approx(expected, abs=FLOAT32)
        assert math.fsum(osc.coefficients()) == pytest.approx(1, abs=1e-12)
    assert osc.listener.refused_count == 0
    assert len(osc.reports.sentences) <= 1  # that a number was clamped is said once


def test_numbers_of_a_mapped_plane_are_scaled() -> None:
    osc = OscFixture(new_shared_alpha(FOUR), ControlPlane.default(FOUR), ["/xy=plane[-1..1]", "/pad/x=x", "/pad/y=y[0..127]"])
    with osc.listener:
        osc.client.send_message("/xy", [-0.5, 0.0])
        wait_until(lambda: osc.coefficients() == (0.375, 0.125, 0.375, 0.125))
        osc.client.send_message("/pad/y", 0)
        wait_until(lambda: osc.coefficients() == (0.75, 0.25, 0.0, 0.0))
        osc.client.send_message("/pad/x", 1.0)
        wait_until(lambda: osc.coefficients() == (0.0, 1.0, 0.0, 0.0))


@pytest.mark.parametrize(
    "mapping",
    ["", "alpha", "/a", "/a=", "=alpha", "a=alpha", "/a=beta", "/a=alpha:nobody", "/a=shares:gan", "/a=alpha[0..0]",
     "/a=alpha[0..]", "/a=alpha[1]", "/a*=alpha", "/a b=alpha", "/a=alpha[0..1e999]x"],
)  # fmt: skip
def test_text_that_is_not_a_mapping_is_refused(mapping: str) -> None:
    with pytest.raises(UsageError) as caught:
        OscAlphaListener(new_shared_alpha(), 0, mappings=[mapping])
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("program", "mapping", "address", "values"),
    [
        ("TouchOSC", "/1/fader1=alpha", "/1/fader1", 0.25),
        ("TouchOSC, XY pad", "/1/xy1=plane", "/1/xy1", [0.25, 0.5]),
        ("TouchOSC of 2021", "/fader1=alpha", "/fader1", 0.25),
        ("Resolume", "/composition/layers/1/video/opacity=alpha", "/composition/layers/1/video/opacity", 0.25),
    ],
)
def test_defaults_of_other_programs_can_be_mapped(program: str, mapping: str, address: str, values: Any) -> None:
    members = FOUR if mapping.endswith("plane") else ("psnr", "gan")
    osc = OscFixture(new_shared_alpha(members), ControlPlane.default(FOUR) if members == FOUR else None, [mapping])
    with osc.listener:
        osc.client.send_message(address, values)
        wait_until(lambda: osc.listener.accepted_count == 1)
        assert osc.coefficients() == ((0.375, 0.125, 0.375, 0.125) if members == FOUR else (0.25, 0.75)), program


def test_a_bundle_of_touchdesigner_can_be_mapped() -> None:
    """Its OSC Out CHOP sends a bundle, with a time of its own clock, of one message for each channel."""
    osc = OscFixture(new_shared_alpha(), mappings=["/alpha=alpha"])
    builder = OscBundleBuilder(3.25)  # type: ignore[arg-type]
    for name, value in (("/tx", 0.75), ("/alpha", 0.25)):
        message = OscMessageBuilder(name)
        message.add_arg(value)
        builder.add_content(message.build())
    with osc.listener:
        osc.send(bytes(builder.build().dgram))
        wait_until(lambda: osc.coefficients() == (0.25, 0.75))
        assert "there are /dni/alpha, /dni/shares, /dni/plane and /alpha" in osc.reports.sentences[0]


def test_both_loopback_addresses_are_listened_at(osc: OscFixture) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
        try:
            sender.sendto(b"/dni/alpha\0\0,f\0\0" + struct.pack(">f", 0.25), ("::1", osc.listener.port))
        except OSError:
            pytest.skip("this machine has no IPv6")
    wait_until(lambda: osc.coefficients() == (0.25, 0.75))


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
def test_a_datagram_that_is_not_osc_changes_nothing(osc: OscFixture, datagram: bytes) -> None:
    osc.send(datagram)
    wait_until(lambda: osc.listener.refused_count == 1)
    osc.client.send_message("/dni/alpha", 0.25)
    wait_until(lambda: osc.listener.accepted_count == 1)
    assert len(osc.reports.sentences) == 1


@pytest.mark.parametrize("change", [-4, 4, 400, -1000])
def test_a_bundle_whose_parts_do_not_fit_is_refused(change: int) -> None:
    datagram = bundle(0.4)
    assert len(list(parse_messages(datagram))) == 1
    (size,) = struct.unpack_from(">i", datagram, 16)
    with pytest.raises(UsageError, match=r"not OSC|damaged OSC bundle"):
        list(parse_messages(datagram[:16] + struct.pack(">i", size + change) + datagram[20:]))


def test_missing_padding_is_accepted(osc: OscFixture) -> None:
    """python-osc documents a sender that omits the trailing zeros of a number."""
    osc.send(b"/dni/alpha\0\0,f\0\0" + struct.pack(">f", 0.5).rstrip(b"\0"))
    wait_until(lambda: osc.listener.accepted_count == 1)
    assert osc.coefficients() == (0.5, 0.5)


def test_bundles_nested_too_deeply_are_refused(osc: OscFixture) -> None:
    inner = bundle(0.5)
    for _ in range(2000):
        inner = b"#bundle\0" + struct.pack(">Qi", 1, len(inner)) + inner
    osc.send(inner)
    wait_until(lambda: osc.listener.refused_count == 1)


anything = st.one_of(
    st.binary(max_size=64),
    st.binary(max_size=40).map(lambda suffix: b"#bundle\0" + suffix),
    st.binary(max_size=30).map(lambda suffix: b"/dni/alpha\0\0," + suffix),
)


@given(anything)
def test_any_datagram_gives_messages_or_a_one_line_error(datagram: bytes) -> None:
    reports = "x"
    try:
        list(parse_messages(datagram))
    except UsageError as error:
        reports = str(error)
    assert reports.isprintable()


def test_a_late_osc_bundle_is_refused(osc: OscFixture) -> None:
    osc.send(bundle(0.1, 0.5))
    wait_until(lambda: osc.listener.accepted_count == 2)
    assert osc.coefficients() == (0.5, 0.5)
    now = time.time()
    osc.send(bundle(0.25, at=now))
    osc.send(bundle(0.75, at=now - 0.5))  # it arrived after a newer one
    osc.client.send_message("/dni/alpha/gan", 0.25)
    wait_until(lambda: osc.listener.accepted_count == 4)
    assert osc.listener.refused_count == 1
    assert "came late" in osc.reports.sentences[0]
    osc.send(bundle(0.125, at=now - 3600))  # its clock was set back: it is not late forever
    wait_until(lambda: osc.listener.accepted_count == 5)
    assert osc.coefficients() == (0.125, 0.875)


def test_the_last_value_of_a_flood_wins(osc: OscFixture) -> None:
    bad = b"/dni/alpha\0\0,f\0\0" + struct.pack(">f", float("nan"))
    for step in range(20_000):
        osc.send(bad) if step % 3 == 0 else osc.client.send_message("/dni/alpha", step % 100 / 128)
    wait_until(lambda: _settled(osc))
    osc.client.send_message("/dni/alpha", 0.625)
    wait_until(lambda: osc.coefficients() == (0.625, 0.375))
    assert len(osc.reports.sentences) <= 1
    osc.listener.close()
    assert len(osc.reports.sentences) <= 2


def _settled(osc: OscFixture) -> bool:
    before = osc.listener.accepted_count + osc.listener.refused_count + osc.listener.superseded_count
    time.sleep(0.05)
    return osc.listener.accepted_count + osc.listener.refused_count + osc.listener.superseded_count == before


def test_a_port_in_use_or_out_of_range_is_refused() -> None:
    first = OscAlphaListener(new_shared_alpha(), 0)
    with first:
        assert first.port > 0
        with pytest.raises(BusyError, match=f"127.0.0.1 port {first.port}: another program has it") as caught:
            OscAlphaListener(new_shared_alpha(), first.port).start()
        assert caught.value.exit_code == 9
    with OscAlphaListener(new_shared_alpha(), first.port):
        pass  # the port was released
    for port in (-1, 1 << 16):
        with pytest.raises(UsageError, match="not a port"):
            OscAlphaListener(new_shared_alpha(), port).start()
    with pytest.raises(UsageError, match=r"not an address of this machine|no such address"):
        OscAlphaListener(new_shared_alpha(), 0, "192.0.2.1").start()  # reserved for documentation: no machine has it


def test_a_listener_can_be_closed_and_started_again() -> None:
    listener = OscAlphaListener(new_shared_alpha(), 0, report=RecordedReports())
    listener.close()
    for _ in range(3):
        listener.start()
        listener.start()
        listener.close()
        listener.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", listener.port))


def test_the_initial_alpha_stays_until_a_message_comes(osc: OscFixture) -> None:
    assert osc.shared_alpha.read().coefficients == Coefficients.one_hot("psnr", ("psnr", "gan"))
