"""OSC: alpha from TouchDesigner, Max, a phone, or whatever else sends Open Sound Control over UDP.

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
from dni_deploy.control.listener import Feeder, bound
from dni_deploy.control.message_handler import Tell
from dni_deploy.control.shared_alpha import AlphaCell
from dni_deploy.errors import UsageError, shown

PREFIX = "/dni/"
BUNDLE = b"#bundle\0"
AT_ONCE = 1
"""The time tag that means: immediately."""
DEPTH_LIMIT = 8
BATCH = 1024
"""Datagrams taken from the system at once; of those to one address only the last is looked at."""
PAUSE = 0.002
"""Seconds of rest after a batch with more than a handful: a flood costs the frames little, and an alpha waits no longer than that."""
SENDERS = 64
LATE = 10.0
"""Seconds: a bundle that is older than the sender's newest by less came late; by more, the sender's clock was set."""

_READERS = {"f": osc_types.get_float, "i": osc_types.get_int, "d": osc_types.get_double, "h": osc_types.get_int64}


class Message(NamedTuple):
    """seconds: the time tag of its bundle; None: at once."""

    address: str
    numbers: tuple[float, ...]
    seconds: float | None


def messages(datagram: bytes, seconds: float | None = None, depth: int = 0) -> Iterator[Message]:
    """The messages of a datagram, those of bundles in their order. Raises UsageError on anything else."""
    if not datagram.startswith(BUNDLE):
        yield _message(datagram, seconds)
        return
    if depth >= DEPTH_LIMIT or len(datagram) < 16:
        raise UsageError("A datagram is not an OSC bundle.")
    (tag,) = struct.unpack_from(">Q", datagram, 8)
    seconds = None if tag == AT_ONCE else tag / 2**32
    place = 16
    while place < len(datagram):
        (size,) = struct.unpack(">i", datagram[place : place + 4].ljust(4, b"\xff"))
        if not 0 < size <= len(datagram) - place - 4:
            raise UsageError("A datagram is a damaged OSC bundle.")
        yield from messages(datagram[place + 4 : place + 4 + size], seconds, depth + 1)
        place += 4 + size


def _message(datagram: bytes, seconds: float | None) -> Message:
    try:
        address, place = osc_types.get_string(datagram, 0)
        tags, place = osc_types.get_string(datagram, place) if datagram[place:] else (",", place)
        if not address.startswith("/") or not tags.startswith(","):
            raise UsageError("A datagram is not OSC.")
        numbers = []
        for tag in tags[1:]:
            if tag not in _READERS:
                raise UsageError(f"{shown(address, 80)} takes numbers; got the type {shown(tag)!r}.")
            number, place = _READERS[tag](datagram, place)
            numbers.append(float(number))
    except (osc_types.ParseError, UnicodeDecodeError, struct.error, IndexError) as error:
        raise UsageError(f"A datagram is not OSC ({shown(error, 80)}).") from None
    return Message(address, tuple(numbers), seconds)


class OscFeeder(Feeder):
    """Listens on UDP. `port` is the real one after start, where 0 was given.

    The newest counts: messages are used as they come, whatever their time tag says, but a bundle that the network delivered
    after a newer one of the same sender is refused as late.
    """

    source = "OSC"

    def __init__(
        self,
        cell: AlphaCell,
        port: int,
        host: str = "127.0.0.1",
        *,
        plane: ControlPlane | None = None,
        tell: Tell | None = None,
    ) -> None:
        super().__init__(cell, plane=plane, tell=tell)
        self.host, self.port = host, port
        self.overtaken = 0
        """How many messages of a flood were not looked at, since a newer one to the same address was there."""
        self._newest: OrderedDict[object, float] = OrderedDict()

    def _open(self) -> None:
        self._socket = bound(self.host, self.port, socket.SOCK_DGRAM, "OSC")
        self._socket.setblocking(False)
        self.port = self._socket.getsockname()[1]
        self._waker, self._wakened = socket.socketpair()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self._wakened, selectors.EVENT_READ)
            while not self._stopping.is_set():
                selector.select()
                batch: OrderedDict[tuple[object, bytes], bytes] = OrderedDict()
                taken = 0
                for datagram, sender in self._waiting():
                    taken += 1
                    # Bundles may hold anything, so none of them is overtaken.
                    key = (sender, b"%d" % taken if datagram.startswith(BUNDLE) else datagram.split(b"\0", 1)[0])
                    self.overtaken += batch.pop(key, None) is not None
                    batch[key] = datagram
                for (sender, _), datagram in batch.items():
                    self._use(datagram, sender)
                if taken > 8:
                    self._stopping.wait(PAUSE)

    def _waiting(self) -> Iterator[tuple[bytes, object]]:
        for _ in range(BATCH):
            try:
                yield self._socket.recvfrom(1 << 16)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # such as the answer of a port that nobody listens on
                continue

    def _use(self, datagram: bytes, sender: object) -> None:
        try:
            found = list(messages(datagram))
        except UsageError as error:
            self.steering.refuse(str(error))
            return
        for message in found:
            if self._late(message.seconds, sender):
                self.steering.refuse(f"{shown(message.address, 80)} came late, after a newer one of the same sender.")
            else:
                self.steering.attempt(partial(self._steer, message))

    def _late(self, seconds: float | None, sender: object) -> bool:
        if seconds is None:
            return False
        newest = self._newest.pop(sender, -math.inf)
        late = newest - LATE < seconds < newest
        self._newest[sender] = newest if late else seconds
        if len(self._newest) > SENDERS:
            self._newest.popitem(last=False)
        return late

    def _steer(self, message: Message) -> None:
        address, numbers = message.address, message.numbers
        if address == PREFIX + "alpha":
            self.steering.alpha(*self._expected(message, 1))
        elif address.startswith(PREFIX + "alpha/"):
            self.steering.share(address[len(PREFIX) + 6 :], *self._expected(message, 1))
        elif address == PREFIX + "shares":
            self.steering.alpha(list(numbers))
        elif address == PREFIX + "plane":
            self.steering.point(*self._expected(message, 2))
        else:
            raise UsageError(f"There is nothing at {shown(address, 80)}; there are /dni/alpha, /dni/shares and /dni/plane.")

    def _expected(self, message: Message, count: int) -> tuple[float, ...]:
        if len(message.numbers) != count:
            raise UsageError(
                f"{shown(message.address, 80)} takes {count} number{'s' * (count > 1)}; got {len(message.numbers)}."
            )
        return message.numbers

    def _wake(self) -> None:
        self._waker.send(b"x")

    def _shut(self) -> None:
        for one in (self._socket, self._waker, self._wakened):
            one.close()
