"""What travels on the WebSocket: frames to the page in binary, requests of the page in JSON."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dni_deploy.errors import UsageError, escape_name
from dni_deploy.utils.text_file import load_json

MESSAGE_VERSION = 1
PREVIEW_KINDS = ("blend", "before", "pixels")
"""The images a message may hold, by number: the network's output, its input, the members' outputs blended pixel by pixel."""

MESSAGE_HEADER = struct.Struct("<4sBBBBIIIIIffff")
"""The header of a frame message, little-endian.

"DNI1" (4 bytes); version, number of members N, number of images P, flags (uint8 each; flag 1: this page set the alpha, flag
2: a slew limit is on the way to it); sequence, generation, frame number, request id (of the page's newest message about alpha
that this frame knows of; 0: none), alpha sequence (uint32 each); milliseconds in the network, of the newest change of alpha,
in encoding, and since the frame began (float32 each). It is followed by N float32 coefficients, P pairs of kind and length
(uint32 each), and the JPEG files in that order.
"""

MESSAGE_TAG = b"DNI1"
FLAG_SET_BY_PAGE, FLAG_MOVING = 1, 2
REQUEST_KEYS = frozenset(
    {
        "next",
        "views",
        "alpha",
        "point",
        "share",
        "control",
        "request_id",
        "pause",
        "follow",
        "record",
        "play",
        "loop",
        "restore",
    }
)
ALPHA_KEYS = frozenset({"alpha", "point", "share", "control"})
"""The keys of a request that set alpha, or a number that the network takes beside the image."""


@dataclass(frozen=True)
class FrameMetadata:
    """How a frame was rendered.

    Attributes:
        sequence: Number of the rendered frame, from 1.
        generation: Number of changes of the weights that it has.
        frame_number: Number of the source's frame.
        alpha_sequence: Number of the change of alpha that it has.
        coefficients: Its coefficients, in family order.
        is_alpha_moving: Whether a slew limit is on the way to the requested alpha.
        network_ms: Time of the session.
        change_ms: Time of the change of the weights; 0 without one.
        encode_ms: Time of encoding the images.
        started_at: When it began, by time.perf_counter, in seconds.
    """

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
    """Packs a frame for one page.

    Args:
        metadata: How it was rendered.
        jpegs: JPEG files by kind.
        request_id: Of the page's newest request about alpha that the frame knows of; 0 for none.
        set_by_page: Whether this page set the alpha.
        age_ms: Milliseconds from the frame's beginning until now.

    Returns:
        The message.
    """
    flags = FLAG_SET_BY_PAGE * set_by_page | FLAG_MOVING * metadata.is_alpha_moving
    numbers = (metadata.sequence, metadata.generation, metadata.frame_number, request_id, metadata.alpha_sequence)
    head = MESSAGE_HEADER.pack(
        MESSAGE_TAG,
        MESSAGE_VERSION,
        len(metadata.coefficients),
        len(jpegs),
        flags,
        *(number & 0xFFFFFFFF for number in numbers),
        *(metadata.network_ms, metadata.change_ms, metadata.encode_ms, age_ms),
    )
    coefficients = struct.pack(f"<{len(metadata.coefficients)}f", *metadata.coefficients)
    table = b"".join(struct.pack("<II", PREVIEW_KINDS.index(kind), len(data)) for kind, data in jpegs.items())
    return b"".join([head, coefficients, table, *jpegs.values()])


def parse_client_request(text: str) -> dict[str, Any]:
    """Parses a request of a page: keys of REQUEST_KEYS, each with a value of the right type.

    Whether an alpha can be used is decided where it is set.

    Args:
        text: A JSON object.

    Returns:
        The object.

    Raises:
        UsageError: The text is no such object.
    """
    request = load_json(text)
    if not isinstance(request, dict) or not request:
        raise UsageError('A message is an object, such as {"alpha": 0.5}.')
    unknown = sorted(set(request) - REQUEST_KEYS)
    if unknown:
        raise UsageError(f"A message has no {escape_name(unknown[0], 40)!r}.")
    request_id = request.get("request_id", 0)
    if type(request_id) is not int or not 0 <= request_id < 2**32:
        raise UsageError("'request_id' is a whole number from 0 to 4294967295.")
    for key in ("pause", "follow", "record", "play", "loop", "restore", "next"):
        if not isinstance(request.get(key, False), bool):
            raise UsageError(f"{key!r} is true or false.")
    views = request.get("views", [])
    if not isinstance(views, list) or not all(isinstance(view, str) and view in PREVIEW_KINDS for view in views):
        raise UsageError(f"'views' is a list of {', '.join(PREVIEW_KINDS)}.")
    if len(ALPHA_KEYS & request.keys()) > 1:
        raise UsageError("A message sets alpha in one way, not in several.")
    if "point" in request and not (_are_numbers(request["point"]) and len(request["point"]) == 2):
        raise UsageError("'point' is two numbers.")
    share = request.get("share")
    if share is not None and not (
        isinstance(share, dict) and set(share) == {"member", "value"} and _are_numbers([share["value"]])
    ):
        raise UsageError("'share' is an object with a member and a value.")
    control = request.get("control")
    if control is not None and not (
        isinstance(control, dict) and set(control) == {"name", "value"} and _are_numbers([control["value"]])
    ):
        raise UsageError("'control' is an object with a name and a value.")
    return request


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(type(item) in (int, float) for item in value)
