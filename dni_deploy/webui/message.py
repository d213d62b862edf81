"""Message: what travels on the WebSocket: frames to the page in binary, wishes of the page in JSON."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dni_deploy.alpha.keyframes import load_json
from dni_deploy.errors import UsageError, shown

VERSION = 1
KINDS = ("blend", "before", "pixels")
"""The pictures a message may hold, by number: the network's output, what went in, the members' outputs mixed pixel by pixel."""

HEADER = struct.Struct("<4sBBBBIIIIIffff")
"""All little-endian: "DNI1" (4 bytes), version, members N, pictures P, flags (u8 each; flag 1: this page set the alpha, flag 2: the
alpha is still on its way to what was set); sequence, generation, frame number, ticket (the page's newest message about alpha
that this frame knows of; 0: none), setting (number of the alpha in the server) (u32 each); milliseconds in the network, of the
newest change of alpha, in encoding, and since the frame began (float32 each). Then N float32 shares, P pairs of kind and
length (u32 each), and the JPEG files in that order."""

TAG = b"DNI1"
MINE, MOVING = 1, 2
WORDS = frozenset({"next", "views", "alpha", "point", "share", "ticket", "hold", "follow"})


@dataclass(frozen=True)
class Stamp:
    """What a frame was made with and how long it took; times in milliseconds, `began` by time.perf_counter."""

    sequence: int
    generation: int
    frame: int
    setting: int
    shares: tuple[float, ...]
    moving: bool
    network: float
    change: float
    encode: float
    began: float


def pack(stamp: Stamp, pictures: Mapping[str, bytes], *, ticket: int, mine: bool, age: float) -> bytes:
    """One message for one page; age: milliseconds from the frame's beginning until now."""
    flags = MINE * mine | MOVING * stamp.moving
    head = HEADER.pack(
        TAG, VERSION, len(stamp.shares), len(pictures), flags, stamp.sequence & 0xFFFFFFFF, stamp.generation & 0xFFFFFFFF,
        stamp.frame & 0xFFFFFFFF, ticket, stamp.setting & 0xFFFFFFFF, stamp.network, stamp.change, stamp.encode, age,
    )  # fmt: skip
    shares = struct.pack(f"<{len(stamp.shares)}f", *stamp.shares)
    table = b"".join(struct.pack("<II", KINDS.index(kind), len(data)) for kind, data in pictures.items())
    return b"".join([head, shares, table, *pictures.values()])


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The fields of a message and its pictures by kind; the page's script does the same. Raises UsageError."""
    if len(data) < HEADER.size or data[:4] != TAG or data[4] != VERSION:
        raise UsageError(f"{len(data)} bytes are not a frame message of version {VERSION}.")
    names = ("members", "pictures", "flags", "sequence", "generation", "frame", "ticket", "setting")
    values = HEADER.unpack_from(data)[2:]
    fields: dict[str, Any] = dict(zip((*names, "network", "change", "encode", "age"), values, strict=True))
    place = HEADER.size
    fields["shares"] = struct.unpack_from(f"<{fields['members']}f", data, place)
    place += 4 * fields["members"]
    table = [struct.unpack_from("<II", data, place + 8 * index) for index in range(fields["pictures"])]
    place += 8 * fields["pictures"]
    pictures = {}
    for kind, length in table:
        pictures[KINDS[kind]] = data[place : place + length]
        place += length
    return fields, pictures


def read_wish(text: str) -> dict[str, Any]:
    """A page's message: an object with words of WORDS, each of the right type; what an alpha is worth is the cell's to say.

    Raises UsageError.
    """
    wish = load_json(text)
    if not isinstance(wish, dict) or not wish:
        raise UsageError('A message is an object, such as {"alpha": 0.5}.')
    unknown = sorted(set(wish) - WORDS)
    if unknown:
        raise UsageError(f"A message has no {shown(unknown[0], 40)!r}.")
    for word in ("ticket",):
        if word in wish and (type(wish[word]) is not int or not 0 <= wish[word] < 2**32):
            raise UsageError("A ticket is a whole number from 0 to 4294967295.")
    for word in ("hold", "follow", "next"):
        if word in wish and not isinstance(wish[word], bool):
            raise UsageError(f"{word!r} is true or false.")
    views = wish.get("views", [])
    if not isinstance(views, list) or not all(view in KINDS for view in views if isinstance(view, str)) or not _texts(views):
        raise UsageError(f"'views' is a list of {', '.join(KINDS)}.")
    if sum(word in wish for word in ("alpha", "point", "share")) > 1:
        raise UsageError("A message sets alpha in one way, not in several.")
    if "point" in wish and not (_numbers(wish["point"]) and len(wish["point"]) == 2):
        raise UsageError("'point' is two numbers.")
    share = wish.get("share")
    if share is not None and not (isinstance(share, dict) and set(share) == {"member", "value"} and _numbers([share["value"]])):
        raise UsageError("'share' is an object with a member and a value.")
    return wish


def _numbers(value: object) -> bool:
    return isinstance(value, list) and all(type(item) in (int, float) for item in value)


def _texts(value: Sequence[object]) -> bool:
    return all(isinstance(item, str) for item in value)
