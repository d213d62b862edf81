"""The color information of an AVIF file's main picture, from its boxes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

MAX_META_BYTES = 32 << 20
"""Of the box `meta`, which describes the pictures; their data are elsewhere."""

MAX_BOXES = 65536


def read_nclx(file: BinaryIO) -> tuple[int, int, int, int] | None:
    """Reads the code points that an AVIF file gives its main picture. The position in the file afterwards is undefined.

    Returns:
        Primaries, transfer, matrix and whether the range is full, as in H.273; None if the file gives none, or is damaged.

    Source: ISO 14496-12, 12.1.5 (colr); ISO 23008-12, 9.3 (iprp).
    """
    try:
        meta = _read_meta(file)
        if meta is None:
            return None
        boxes = dict(_list_boxes(meta[4:]))
        main = struct.unpack_from(">H" if boxes[b"pitm"][0] == 0 else ">I", boxes[b"pitm"], 4)[0]
        properties = dict(_list_boxes(boxes[b"iprp"]))
        colors = list(_list_boxes(properties[b"ipco"]))
        for index in _list_properties(properties[b"ipma"], main):
            name, data = colors[index - 1]
            if index and name == b"colr" and data[:4] == b"nclx":
                primaries, transfer, matrix, flags = struct.unpack_from(">HHHB", data, 4)
                return primaries, transfer, matrix, flags >> 7
    except (struct.error, KeyError, IndexError):
        pass
    return None


def _read_meta(file: BinaryIO) -> bytes | None:
    file.seek(0)
    for _ in range(100):  # ftyp and perhaps a few others are before it
        head = file.read(8)
        if len(head) < 8:
            return None
        size, name = struct.unpack(">I4s", head)
        head_bytes = 8
        if size == 1:
            size, head_bytes = struct.unpack(">Q", file.read(8))[0], 16
        if name == b"meta":
            return file.read(min(size - head_bytes, MAX_META_BYTES)) if size > head_bytes else None
        if not head_bytes <= size < 2**62:
            return None
        file.seek(size - head_bytes, 1)
    return None


def _list_boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    for _ in range(MAX_BOXES):
        if at + 8 > len(data):
            return
        size, name = struct.unpack_from(">I4s", data, at)
        if size < 8:
            return
        yield name, data[at + 8 : at + size]
        at += size


def _list_properties(data: bytes, item: int) -> list[int]:
    """Lists the numbers, from 1, of the properties of an item."""
    version, is_wide = data[0], data[3] & 1
    count = min(struct.unpack_from(">I", data, 4)[0], MAX_BOXES)
    at = 8
    for _ in range(count):
        number = struct.unpack_from(">I" if version else ">H", data, at)[0]
        at += 4 if version else 2
        associations = data[at]
        at += 1
        width = 2 if is_wide else 1
        if number == item:
            values = struct.unpack_from(f">{associations}{'H' if is_wide else 'B'}", data, at)
            return [value & (0x7FFF if is_wide else 0x7F) for value in values]
        at += associations * width
    return []
