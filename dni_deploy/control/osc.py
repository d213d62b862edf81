"""Alpha by Open Sound Control (OSC) over UDP, from TouchDesigner, Max, a phone, or whatever else sends it.

/dni/alpha 0.4          two members: the first one's share
/dni/alpha/gan 0.7      that member's share; the others keep their proportions
/dni/shares 0.2 0.3 0.5 one number per member
/dni/plane 0.3 0.7      a point of the plane
"""

from __future__ import annotations

import math
import selectors
import socket
import struct
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from pythonosc.parsing import osc_types

from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.control.listener import AlphaListener, bind_socket
from dni_deploy.control.message_handler import ReportMessage
from dni_deploy.control.shared_alpha import SharedAlpha
from dni_deploy.errors import UsageError, escape_name

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
        host: str = "127.0.0.1",
        *,
        plane: ControlPlane | None = None,
        report: ReportMessage | None = None,
    ) -> None:
        """Creates a listener, which opens its port in `start`.

        Args:
            shared_alpha: What is set.
            port: UDP port; 0 for any that is free.
            host: Address to listen at.
            plane: What a point means; None refuses points.
            report: As in AlphaMessageHandler.
        """
        super().__init__(shared_alpha, plane=plane, report=report)
        self.host, self.port = host, port
        self.superseded_count = 0
        self._newest_time_tags: OrderedDict[object, float] = OrderedDict()

    def _open_input(self) -> None:
        self._socket = bind_socket(self.host, self.port, socket.SOCK_DGRAM, "OSC")
        self._socket.setblocking(False)
        self.port = self._socket.getsockname()[1]
        self._wake_writer, self._wake_reader = socket.socketpair()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self._wake_reader, selectors.EVENT_READ)
            while not self._stopping.is_set():
                selector.select()
                batch: OrderedDict[tuple[object, bytes], bytes] = OrderedDict()
                count = 0
                for datagram, sender in self._receive_datagrams():
                    count += 1
                    # A bundle may hold anything, so none is superseded.
                    key = (sender, b"%d" % count if datagram.startswith(OSC_BUNDLE_TAG) else datagram.split(b"\0", 1)[0])
                    self.superseded_count += batch.pop(key, None) is not None
                    batch[key] = datagram
                for (sender, _), datagram in batch.items():
                    self._handle_datagram(datagram, sender)
                if count > MAX_UNPAUSED_DATAGRAMS:
                    self._stopping.wait(BATCH_PAUSE_S)

    def _receive_datagrams(self) -> Iterator[tuple[bytes, object]]:
        for _ in range(MAX_DATAGRAMS_PER_BATCH):
            try:
                yield self._socket.recvfrom(1 << 16)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # such as the reply of a port at which nobody listens
                continue

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
        address, numbers = message.address, message.numbers
        if address == ADDRESS_PREFIX + "alpha":
            self.handler.set_alpha(*self._read_numbers(message, 1))
        elif address.startswith(ADDRESS_PREFIX + "alpha/"):
            self.handler.set_coefficient(address[len(ADDRESS_PREFIX) + 6 :], *self._read_numbers(message, 1))
        elif address == ADDRESS_PREFIX + "shares":
            self.handler.set_alpha(list(numbers))
        elif address == ADDRESS_PREFIX + "plane":
            self.handler.set_point(*self._read_numbers(message, 2))
        else:
            raise UsageError(
                f"There is nothing at {escape_name(address, 80)}; there are /dni/alpha, /dni/shares and /dni/plane."
            )

    def _read_numbers(self, message: OscMessage, count: int) -> tuple[float, ...]:
        if len(message.numbers) != count:
            raise UsageError(
                f"{escape_name(message.address, 80)} takes {count} number{'s' * (count > 1)}; got {len(message.numbers)}."
            )
        return message.numbers

    def _wake_thread(self) -> None:
        self._wake_writer.send(b"x")

    def _close_input(self) -> None:
        for opened in (self._socket, self._wake_writer, self._wake_reader):
            opened.close()
