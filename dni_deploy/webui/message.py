"""Message: what travels on the WebSocket: frames to the page in binary, wishes of the page in JSON."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dni_deploy.errors import UsageError, escape_name
from dni_deploy.utils.text_file import load_json

MESSAGE_VERSION = 1
PREVIEW_KINDS = ("blend", "before", "pixels")
"""The pictures a message may hold, by number: the network's output, what went in, the members' outputs mixed pixel by pixel."""

MESSAGE_HEADER = struct.Struct("<4sBBBBIIIIIffff")
"""All little-endian: "DNI1" (4 bytes), version, members N, pictures P, flags (u8 each; flag 1: this page set the alpha, flag 2: the
alpha is still on its way to what was set); sequence, generation, frame number, ticket (the page's newest message about alpha
that this frame knows of; 0: none), setting (number of the alpha in the server) (u32 each); milliseconds in the network, of the
newest change of alpha, in encoding, and since the frame began (float32 each). Then N float32 shares, P pairs of kind and
length (u32 each), and the JPEG files in that order."""

MESSAGE_TAG = b"DNI1"
FLAG_SET_BY_PAGE, FLAG_MOVING = 1, 2
REQUEST_KEYS = frozenset({"next", "views", "alpha", "point", "share", "ticket", "hold", "follow"})


@dataclass(frozen=True)
class FrameMetadata:
    """What a frame was made with and how long it took; times in milliseconds, `started_at` by time.perf_counter."""

    sequence: int
    generation: int
    frame_number: int
    alpha_sequence: int
    coefficients: tuple[float, ...]
    is_alpha_moving: bool
    network_ms: float
    change_ms: float
    encode_ms: float
    started_at: float


def pack_message(
    metadata: FrameMetadata, jpegs: Mapping[str, bytes], *, request_id: int, set_by_page: bool, age_ms: float
) -> bytes:
    """One message for one page; age: milliseconds from the frame's beginning until now."""
    flags = FLAG_SET_BY_PAGE * set_by_page | FLAG_MOVING * metadata.is_alpha_moving
    head = MESSAGE_HEADER.pack(
        MESSAGE_TAG, MESSAGE_VERSION, len(metadata.coefficients), len(jpegs), flags, metadata.sequence & 0xFFFFFFFF, metadata.generation & 0xFFFFFFFF,
        metadata.frame_number & 0xFFFFFFFF, request_id, metadata.alpha_sequence & 0xFFFFFFFF, metadata.network_ms, metadata.change_ms, metadata.encode_ms, age_ms,
    )  # fmt: skip
    shares = struct.pack(f"<{len(metadata.coefficients)}f", *metadata.coefficients)
    table = b"".join(struct.pack("<II", PREVIEW_KINDS.index(kind), len(data)) for kind, data in jpegs.items())
    return b"".join([head, shares, table, *jpegs.values()])


def unpack_message(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The fields of a message and its pictures by kind; the page's script does the same. Raises UsageError."""
    if len(data) < MESSAGE_HEADER.size or data[:4] != MESSAGE_TAG or data[4] != MESSAGE_VERSION:
        raise UsageError(f"{len(data)} bytes are not a frame message of version {MESSAGE_VERSION}.")
    names = ("members", "pictures", "flags", "sequence", "generation", "frame", "ticket", "setting")
    values = MESSAGE_HEADER.unpack_from(data)[2:]
    fields: dict[str, Any] = dict(zip((*names, "network", "change", "encode", "age"), values, strict=True))
    place = MESSAGE_HEADER.size
    fields["shares"] = struct.unpack_from(f"<{fields['members']}f", data, place)
    place += 4 * fields["members"]
    table = [struct.unpack_from("<II", data, place + 8 * index) for index in range(fields["pictures"])]
    place += 8 * fields["pictures"]
    pictures = {}
    for kind, length in table:
        pictures[PREVIEW_KINDS[kind]] = data[place : place + length]
        place += length
    return fields, pictures


def parse_client_request(text: str) -> dict[str, Any]:
    """A page's message: an object with words of REQUEST_KEYS, each of the right type; what an alpha is worth is the cell's to say.

    Raises UsageError.
    """
    wish = load_json(text)
    if not isinstance(wish, dict) or not wish:
        raise UsageError('A message is an object, such as {"alpha": 0.5}.')
    unknown = sorted(set(wish) - REQUEST_KEYS)
    if unknown:
        raise UsageError(f"A message has no {escape_name(unknown[0], 40)!r}.")
    for word in ("ticket",):
        if word in wish and (type(wish[word]) is not int or not 0 <= wish[word] < 2**32):
            raise UsageError("A ticket is a whole number from 0 to 4294967295.")
    for word in ("hold", "follow", "next"):
        if word in wish and not isinstance(wish[word], bool):
            raise UsageError(f"{word!r} is true or false.")
    views = wish.get("views", [])
    if (
        not isinstance(views, list)
        or not all(view in PREVIEW_KINDS for view in views if isinstance(view, str))
        or not _are_strings(views)
    ):
        raise UsageError(f"'views' is a list of {', '.join(PREVIEW_KINDS)}.")
    if sum(word in wish for word in ("alpha", "point", "share")) > 1:
        raise UsageError("A message sets alpha in one way, not in several.")
    if "point" in wish and not (_are_numbers(wish["point"]) and len(wish["point"]) == 2):
        raise UsageError("'point' is two numbers.")
    share = wish.get("share")
    if share is not None and not (
        isinstance(share, dict) and set(share) == {"member", "value"} and _are_numbers([share["value"]])
    ):
        raise UsageError("'share' is an object with a member and a value.")
    return wish


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(type(item) in (int, float) for item in value)


def _are_strings(value: Sequence[object]) -> bool:
    return all(isinstance(item, str) for item in value)
