"""The extension blocks of a GIF file before its first image."""

from __future__ import annotations

from typing import BinaryIO

MAX_EXTENSIONS = 1000

MAX_EXTENSION_BYTES = 16 << 20

APPLICATION, EXTENSION = 0xFF, 0x21


def read_application_block(file: BinaryIO, identifier: bytes) -> bytes | None:
    """Reads the content of an application extension. The position in the file afterwards is undefined.

    Args:
        file: A GIF file.
        identifier: Its 11 bytes, such as ICCRGBG1012.

    Returns:
        The content of its blocks, joined; None if there is none before the first image, or it is damaged.
    """
    file.seek(0)
    head = file.read(13)
    if len(head) < 13:
        return None
    if head[10] & 0x80:  # a palette follows
        file.seek(3 << ((head[10] & 7) + 1), 1)
    for _ in range(MAX_EXTENSIONS):
        introducer = file.read(2)
        if len(introducer) < 2 or introducer[0] != EXTENSION:
            return None
        blocks = _read_blocks(file)
        if blocks and introducer[1] == APPLICATION and blocks[0] == identifier:
            return b"".join(blocks[1:])
    return None


def _read_blocks(file: BinaryIO) -> list[bytes]:
    blocks, total = [], 0
    while (size := file.read(1)) not in (b"", b"\0") and total < MAX_EXTENSION_BYTES:
        blocks.append(file.read(size[0]))
        total += size[0]
    return blocks
