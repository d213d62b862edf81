"""Alpha by Open Sound Control (OSC) over UDP, from TouchDesigner, Max, a phone, or whatever else sends it.

/dni/alpha 0.4          two members: the first one's share
/dni/alpha/gan 0.7      that member's share; the others keep their proportions
/dni/shares 0.2 0.3 0.5 one number per member
/dni/plane 0.3 0.7      a point of the plane
/dni/control/sigma 0.1  a number that the network takes beside the image

Address patterns are matched with these, and with addresses of other programs that are mapped to them.
"""

from __future__ import annotations

import math
import selectors
import socket
import struct
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from typing import NamedTuple

from pythonosc.parsing import osc_types

from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.control.address import LOOPBACK, bind_sockets
from dni_deploy.control.listener import AlphaListener
from dni_deploy.control.message_handler import ReportMessage
from dni_deploy.control.osc_address import (
    OscTarget,
    list_own_addresses,
    match_addresses,
    parse_osc_mapping,
    strip_trailing_slash,
)
from dni_deploy.control.shared_alpha import SharedAlpha
from dni_deploy.errors import UsageError, escape_name
from dni_deploy.network_controls import Control
from dni_deploy.utils.format_count import format_count

ADDRESS_PREFIX = "/dni/"
OSC_BUNDLE_TAG = b"#bundle\0"
IMMEDIATE_TIME_TAG = 1
"""The time tag that means: immediately. Source: OSC 1.0 specification."""
MAX_BUNDLE_DEPTH = 8
MAX_DATAGRAMS_PER_BATCH = 1024
"""Number of datagrams that are received at once; of those to one address only the last is used."""
BATCH_PAUSE_S = 0.002
"""Seconds of pause after a batch of more than MAX_UNPAUSED_DATAGRAMS: a flood costs the frames little, and no alpha waits
longer."""

MAX_UNPAUSED_DATAGRAMS = 8
MAX_SENDERS = 64
MAX_BUNDLE_AGE_S = 10.0
"""Seconds: a bundle that is older than the sender's newest by less came late; by more, the sender's clock was set."""

MAX_OVERSHOOT = 0.01
"""How far a number may lie outside 0 to 1, where no range was given: it is then clamped, as rounding of the sender."""
SHARES_SUM_TOLERANCE = 0.001
"""How far the sum of shares may be from 1: they are then divided by it. Numbers of 4 digits are off by less, of up to 20 members."""

_READER_BY_TYPE_TAG = {"f": osc_types.get_float, "i": osc_types.get_int, "d": osc_types.get_double, "h": osc_types.get_int64}


class OscMessage(NamedTuple):
    """A message.

    Attributes:
        address: Its OSC address, such as /dni/alpha.
        numbers: Its arguments.
        seconds: Time tag of its bundle, in seconds of the sender's clock; None: immediately.
    """

    address: str
    numbers: tuple[float, ...]
    seconds: float | None


def parse_messages(datagram: bytes, seconds: float | None = None, depth: int = 0) -> Iterator[OscMessage]:
    """Parses the messages of a datagram.

    Args:
        datagram: An OSC message or bundle.
        seconds: Time tag of the bundle that it stands in.
        depth: How many bundles it stands in.

    Yields:
        The messages, those of a bundle in their order.

    Raises:
        UsageError: It is neither, or nested too deeply, or has arguments that are not numbers.
    """
    if not datagram.startswith(OSC_BUNDLE_TAG):
        yield _parse_message(datagram, seconds)
        return
    if depth >= MAX_BUNDLE_DEPTH or len(datagram) < 16:
        raise UsageError("A datagram is not an OSC bundle.")
    (tag,) = struct.unpack_from(">Q", datagram, 8)
    seconds = None if tag == IMMEDIATE_TIME_TAG else tag / 2**32
    offset = 16
    while offset < len(datagram):
        (size,) = struct.unpack(">i", datagram[offset : offset + 4].ljust(4, b"\xff"))
        if not 0 < size <= len(datagram) - offset - 4:
            raise UsageError("A datagram is a damaged OSC bundle.")
        yield from parse_messages(datagram[offset + 4 : offset + 4 + size], seconds, depth + 1)
        offset += 4 + size


def _parse_message(datagram: bytes, seconds: float | None) -> OscMessage:
    try:
        address, offset = osc_types.get_string(datagram, 0)
        tags, offset = osc_types.get_string(datagram, offset) if datagram[offset:] else (",", offset)
        if not address.startswith("/") or not tags.startswith(","):
            raise UsageError("A datagram is not OSC.")
        numbers = []
        for tag in tags[1:]:
            if tag in "[]":  # an array: its numbers are taken as if they stood alone
                continue
            if tag not in _READER_BY_TYPE_TAG:
                raise UsageError(f"{escape_name(address, 80)} takes numbers; got the type {escape_name(tag)!r}.")
            number, offset = _READER_BY_TYPE_TAG[tag](datagram, offset)
            numbers.append(float(number))
    except (osc_types.ParseError, UnicodeDecodeError, struct.error, IndexError) as error:
        raise UsageError(f"A datagram is not OSC ({escape_name(error, 80)}).") from None
    return OscMessage(address, tuple(numbers), seconds)


class OscAlphaListener(AlphaListener):
    """Listens on a UDP port.

    The newest counts: messages are used as they come, whatever their time tag says, but a bundle that the network delivered
    after a newer one of the same sender is refused as late.

    Attributes:
        port: The real port after `start`, where 0 was given.
        superseded_count: Number of messages of a flood that were not used, since a newer one to the same address was there.
    """

    source = "OSC"

    def __init__(
        self,
        shared_alpha: SharedAlpha,
        port: int,
        host: str = LOOPBACK,
        *,
        mappings: Sequence[str] = (),
        plane: ControlPlane | None = None,
        report: ReportMessage | None = None,
    ) -> None:
        """Creates a listener, which opens its port in `start`.

        Args:
            shared_alpha: What is set.
            port: UDP port; 0 for any that is free.
            host: Address to listen at, as in ListenAddress.
            mappings: What addresses of other programs stand for, as `parse_osc_mapping` reads them.
            plane: What a point means; None refuses points.
            report: As in AlphaMessageHandler.

        Raises:
            UsageError: A mapping cannot be read.
        """
        super().__init__(shared_alpha, plane=plane, report=report)
        self.host, self.port = host, port
        members, controls = shared_alpha.members, shared_alpha.controls
        parsed = (parse_osc_mapping(mapping, members, controls) for mapping in mappings)
        self._targets = {**list_own_addresses(ADDRESS_PREFIX, members, controls), **dict(parsed)}
        self._point = [0.5, 0.5]
        self.superseded_count = 0
        self._newest_time_tags: OrderedDict[object, float] = OrderedDict()

    def _open_input(self) -> None:
        self._sockets = bind_sockets(self.host, self.port, socket.SOCK_DGRAM, "OSC")
        for opened in self._sockets:
            opened.setblocking(False)
        self.port = self._sockets[0].getsockname()[1]
        self._wake_writer, self._wake_reader = socket.socketpair()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for opened in self._sockets:
                selector.register(opened, selectors.EVENT_READ)
            selector.register(self._wake_reader, selectors.EVENT_READ)
            while not self._stopping.is_set():
                selector.select()
                batch: OrderedDict[tuple[object, bytes], bytes] = OrderedDict()
                count = 0
                for datagram, sender in chain.from_iterable(map(_receive_datagrams, self._sockets)):
                    count += 1
                    # A bundle may hold anything, so none is superseded.
                    key = (sender, b"%d" % count if datagram.startswith(OSC_BUNDLE_TAG) else datagram.split(b"\0", 1)[0])
                    self.superseded_count += batch.pop(key, None) is not None
                    batch[key] = datagram
                for (sender, _), datagram in batch.items():
                    self._handle_datagram(datagram, sender)
                if count > MAX_UNPAUSED_DATAGRAMS:
                    self._stopping.wait(BATCH_PAUSE_S)

    def _handle_datagram(self, datagram: bytes, sender: object) -> None:
        try:
            messages = list(parse_messages(datagram))
        except UsageError as error:
            self.handler.count_refusal(str(error))
            return
        for message in messages:
            if self._is_late(message.seconds, sender):
                self.handler.count_refusal(
                    f"{escape_name(message.address, 80)} came late, after a newer one of the same sender."
                )
            else:
                self.handler.handle_safely(partial(self._handle_message, message))

    def _is_late(self, seconds: float | None, sender: object) -> bool:
        if seconds is None:
            return False
        newest = self._newest_time_tags.pop(sender, -math.inf)
        is_late = newest - MAX_BUNDLE_AGE_S < seconds < newest
        self._newest_time_tags[sender] = newest if is_late else seconds
        if len(self._newest_time_tags) > MAX_SENDERS:
            self._newest_time_tags.popitem(last=False)
        return is_late

    def _handle_message(self, message: OscMessage) -> None:
        addresses = match_addresses(message.address, tuple(self._targets))
        if not addresses:
            raise UsageError(f"There is nothing at {escape_name(message.address, 80)}; there are {self._list_addresses()}.")
        targets = [self._targets[address] for address in addresses]
        if addresses != [strip_trailing_slash(message.address)]:
            targets = [target for target in targets if self._fits(target, len(message.numbers))]
            if not targets:
                raise UsageError(
                    f"Nothing that {escape_name(message.address, 80)} matches takes {len(message.numbers)} numbers."
                )
        for target in targets:
            self._apply_numbers(target, message)

    def _fits(self, target: OscTarget, count: int) -> bool:
        """Whether a target that a pattern matches is meant by a message of so many numbers."""
        if target.kind in ("plane", "x", "y") and self.handler.plane is None:
            return False
        members = len(self.handler.shared_alpha.members)
        return count == (members if target.sets_all(count) else target.argument_count)

    def _apply_numbers(self, target: OscTarget, message: OscMessage) -> None:
        members, count = self.handler.shared_alpha.members, len(message.numbers)
        sets_all, expected = target.sets_all(count), target.argument_count
        if not sets_all and count != expected:
            raise UsageError(f"{escape_name(message.address, 80)} takes {format_count(expected, 'number')}; got {count}.")
        if target.control is not None:
            self._set_control(target, target.control, message)
            return
        numbers = [self._to_share(number, target, message.address) for number in message.numbers]
        if sets_all:
            self.handler.set_alpha(
                _normalize_shares(numbers, always=target.value_range is not None) if count == len(members) else numbers
            )
        elif target.kind in ("x", "y"):
            self._point["xy".index(target.kind)] = numbers[0]
            self.handler.set_point(*self._point)
        elif target.kind == "plane":
            self._point[:] = numbers
            self.handler.set_point(*numbers)
        elif target.member is not None:
            self.handler.set_coefficient(target.member, numbers[0])
        else:
            self.handler.set_alpha(numbers[0])

    def _set_control(self, target: OscTarget, control: Control, message: OscMessage) -> None:
        number = message.numbers[0]
        if target.value_range is not None:
            share = self._to_share(number, target, message.address)
            number = min(max(control.low + share * (control.high - control.low), control.low), control.high)
        self.handler.set_control(control.name, number)

    def _to_share(self, number: float, target: OscTarget, address: str) -> float:
        """Returns the number from 0 to 1 that a number of a message stands for; what is far outside is left to be refused."""
        low, high = target.value_range or (0.0, 1.0)
        share = (number - low) / (high - low)
        clamped = min(max(share, 0.0), 1.0)
        if share == clamped or not math.isfinite(share) or self.handler.shared_alpha.extrapolate:
            return share
        if target.value_range is None and abs(share - clamped) > MAX_OVERSHOOT:
            return share
        self.handler.note_adjustment(
            f"{escape_name(address, 80)} was {number:g}, outside {low:g} to {high:g}, and was taken as {clamped * (high - low) + low:g}."
        )
        return clamped

    def _list_addresses(self) -> str:
        own = [f"{ADDRESS_PREFIX}{name}" for name in ("alpha", "shares", "plane")]
        mapped = [address for address in self._targets if not address.startswith(ADDRESS_PREFIX)]
        *first, last = [*own, *(escape_name(address, 40) for address in mapped[:8])]
        return f"{', '.join(first)} and {last}" + ("" if mapped else " (--osc-map maps others)")

    def _wake_thread(self) -> None:
        self._wake_writer.send(b"x")

    def _close_input(self) -> None:
        for opened in (*self._sockets, self._wake_writer, self._wake_reader):
            opened.close()


def _receive_datagrams(listening_socket: socket.socket) -> Iterator[tuple[bytes, object]]:
    for _ in range(MAX_DATAGRAMS_PER_BATCH):
        try:
            yield listening_socket.recvfrom(1 << 16)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # such as the reply of a port at which nobody listens
            continue


def _normalize_shares(shares: list[float], *, always: bool) -> list[float]:
    """Divides shares by their sum, where it is near 1, or `always`; what cannot be divided is left to be refused."""
    total = math.fsum(shares) if all(map(math.isfinite, shares)) else 0.0
    return [share / total for share in shares] if total > 0 and (always or abs(total - 1) <= SHARES_SUM_TOLERANCE) else shares
