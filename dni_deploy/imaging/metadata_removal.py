"""The same image file without its metadata, for one whose metadata keep a decoder from its pixels."""

from __future__ import annotations

import re
import struct

CRITICAL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"acTL", b"fcTL", b"fdAT"})
"""What makes the pixels of a PNG file, those of an animation included."""

TIFF_PIXEL_TAGS = frozenset(
    {
        *range(254, 260), 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, *range(322, 326), 332, 338, 339, 340, 341, 347,
        *range(512, 522), *range(529, 533),
    }
)  # fmt: skip
"""What makes the pixels of a TIFF file. Source: TIFF 6.0, and its Technical Note 2."""

JPEG_PIXEL_SEGMENTS = frozenset({0xE0, 0xEE})
"""The application segments that say how the colors are stored: JFIF and Adobe."""

AVIF_EXIF_ITEM = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))Exif", re.DOTALL)
"""The entry of an item list that says that the item is EXIF; of a type that decoders do not know, it is passed over.

Source: ISO 14496-12, 8.11.6.
"""


def remove_metadata(data: bytes) -> bytes | None:
    """Removes what a PNG, JPEG or TIFF file holds beside its pixels, and EXIF from an AVIF file.

    Args:
        data: The file.

    Returns:
        The file without it; None for another kind, or where its structure is damaged.
    """
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _remove_png_chunks(data)
        if data.startswith(b"\xff\xd8"):
            return _remove_jpeg_segments(data)
        if data[:4] in (b"II*\0", b"MM\0*"):
            return _remove_tiff_tags(data)
        if data[4:8] == b"ftyp":
            return AVIF_EXIF_ITEM.sub(rb"\1skip", data)
    except (struct.error, IndexError):
        pass
    return None


def _remove_png_chunks(data: bytes) -> bytes:
    parts, position = [data[:8]], 8
    while position < len(data):
        size, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + size
        if name in CRITICAL_CHUNKS:
            parts.append(data[position:end])
        position = end
    return b"".join(parts)


def _remove_jpeg_segments(data: bytes) -> bytes:
    parts, position = [data[:2]], 2
    while data[position] == 0xFF and data[position + 1] != 0xDA:
        marker = data[position + 1]
        if marker == 0xFF:  # fill
            position += 1
            continue
        end = position + 2 + struct.unpack_from(">H", data, position + 2)[0]
        is_metadata = (0xE0 <= marker <= 0xEF and marker not in JPEG_PIXEL_SEGMENTS) or marker == 0xFE
        if not is_metadata:
            parts.append(data[position:end])
        position = end
    return b"".join([*parts, data[position:]])


def _remove_tiff_tags(data: bytes) -> bytes:
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    entries = [data[start + 2 + 12 * index : start + 14 + 12 * index] for index in range(count)]
    kept = [entry for entry in entries if struct.unpack_from(f"{order}H", entry)[0] in TIFF_PIXEL_TAGS]
    next_directory = data[start + 2 + 12 * count : start + 6 + 12 * count]
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + next_directory
    return data[:start] + directory + data[start + len(directory) :]
