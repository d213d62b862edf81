"""Unpacks frame messages, as the page's script does."""

from __future__ import annotations

import struct
from typing import Any

from dni_deploy.errors import UsageError
from dni_deploy.webui.message import MESSAGE_HEADER, MESSAGE_TAG, MESSAGE_VERSION, PREVIEW_KINDS


def unpack_message(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Unpacks a frame message, as the page's script does.

    Returns:
        The fields of the header with `shares`, and the JPEG files by kind.

    Raises:
        UsageError: The bytes are not a frame message.
    """
    if len(data) < MESSAGE_HEADER.size or data[:4] != MESSAGE_TAG or data[4] != MESSAGE_VERSION:
        raise UsageError(f"{len(data)} bytes are not a frame message of version {MESSAGE_VERSION}.")
    names = ("members", "images", "flags", "sequence", "generation", "frame", "request_id", "alpha_sequence")
    values = MESSAGE_HEADER.unpack_from(data)[2:]
    fields: dict[str, Any] = dict(zip((*names, "network", "change", "encode", "age"), values, strict=True))
    offset = MESSAGE_HEADER.size
    fields["shares"] = struct.unpack_from(f"<{fields['members']}f", data, offset)
    offset += 4 * fields["members"]
    table = [struct.unpack_from("<II", data, offset + 8 * index) for index in range(fields["images"])]
    offset += 8 * fields["images"]
    jpegs = {}
    for kind, length in table:
        jpegs[PREVIEW_KINDS[kind]] = data[offset : offset + length]
        offset += length
    return fields, jpegs
