"""The chunks of a PNG file beside its pixels: read with limits, and inserted into an encoded file."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"

HEADER_END = 33
"""Where the first chunk behind IHDR begins."""

MAX_CHUNKS = 1 << 20
"""More than any writer makes: at 8 KiB each, 8 GiB of pixels."""

MAX_METADATA_BYTES = 32 << 20
"""Of all chunks that are read, together, and of what each one becomes when it is decompressed."""

MAX_KEYWORD_BYTES = 79
"""Source: PNG 3, 11.3.3.2."""

PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT"})


@dataclass(frozen=True)
class PngChunk:
    """One chunk: its name and its content."""

    name: bytes
    data: bytes

    def encode(self) -> bytes:
        """Returns the chunk as it is in a file."""
        checksum = zlib.crc32(self.name + self.data)
        return struct.pack(">I", len(self.data)) + self.name + self.data + struct.pack(">I", checksum)


@dataclass(frozen=True)
class PngText:
    """A text of a PNG file.

    Attributes:
        keyword: Such as "Author".
        text: The text.
        language: Its language; "" if none is given.
        translated_keyword: The keyword in that language; "" if none is given.
    """

    keyword: str
    text: str
    language: str = ""
    translated_keyword: str = ""

    def to_chunk(self) -> PngChunk:
        """Encodes the text: as tEXt where that can hold it, otherwise as iTXt."""
        keyword = self.keyword.encode("latin-1", "replace")[:MAX_KEYWORD_BYTES] + b"\0"
        if not self.language and not self.translated_keyword:
            try:
                return PngChunk(b"tEXt", keyword + self.text.encode("latin-1"))
            except UnicodeEncodeError:
                pass
        names = self.language.encode("ascii", "replace") + b"\0" + self.translated_keyword.encode("utf-8", "replace") + b"\0"
        return PngChunk(b"iTXt", keyword + b"\0\0" + names + self.text.encode("utf-8", "replace"))


def read_chunks(file: BinaryIO) -> tuple[list[PngChunk], list[str]]:
    """Reads all chunks of a PNG file but those of the pixels. The position in the file afterwards is undefined.

    Returns:
        The chunks, in their order, and the names of chunks that are damaged or too large and were left out.
    """
    chunks: list[PngChunk] = []
    left_out: list[str] = []
    budget = MAX_METADATA_BYTES
    file.seek(len(SIGNATURE))
    for _ in range(MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            break
        size, name = struct.unpack(">I4s", head)
        if name == b"IEND" or not name.isalpha():
            break
        if name in PIXEL_CHUNKS or size > budget:
            if name not in PIXEL_CHUNKS:
                left_out.append(name.decode())
            file.seek(size + 4, 1)
            continue
        data, checksum = file.read(size), file.read(4)
        budget -= size
        if struct.pack(">I", zlib.crc32(name + data)) == checksum:
            chunks.append(PngChunk(name, data))
        else:
            left_out.append(name.decode())
    return chunks, left_out


def insert_chunks(png: bytes, chunks: Iterable[PngChunk]) -> bytes:
    """Inserts chunks behind the header of an encoded PNG file."""
    return png[:HEADER_END] + b"".join(chunk.encode() for chunk in chunks) + png[HEADER_END:]


def inflate(data: bytes) -> bytes:
    """Decompresses a zlib stream.

    Raises:
        ValueError: It is damaged or becomes longer than MAX_METADATA_BYTES.
    """
    decompressor = zlib.decompressobj()
    try:
        result = decompressor.decompress(data, MAX_METADATA_BYTES)
    except zlib.error as error:
        raise ValueError("Compressed text is damaged.") from error
    if not decompressor.eof:
        raise ValueError("Compressed text is cut off or too long.")
    return result


def decode_profile(data: bytes) -> bytes:
    """Decodes the profile in the content of an iCCP chunk.

    Raises:
        ValueError: It is damaged or too long.
    """
    _, separator, rest = data.partition(b"\0")
    if not separator or rest[:1] != b"\0":
        raise ValueError("The iCCP chunk is damaged.")
    return inflate(rest[1:])


def encode_profile(icc: bytes) -> PngChunk:
    """Makes the iCCP chunk of a profile."""
    return PngChunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc))


def decode_text(chunk: PngChunk) -> PngText:
    """Decodes a tEXt, zTXt or iTXt chunk.

    Raises:
        ValueError: It is damaged or too long.
    """
    keyword, separator, rest = chunk.data.partition(b"\0")
    if not separator or not 1 <= len(keyword) <= MAX_KEYWORD_BYTES:
        raise ValueError("A text has no keyword.")
    name = keyword.decode("latin-1")
    if chunk.name == b"tEXt":
        return PngText(name, rest.decode("latin-1"))
    if chunk.name == b"zTXt":
        return PngText(name, inflate(rest[1:]).decode("latin-1"))
    is_compressed, (language, _, rest) = rest[:1] == b"\1", rest[2:].partition(b"\0")
    translated, _, text = rest.partition(b"\0")
    text = inflate(text) if is_compressed else text
    return PngText(name, text.decode("utf-8"), language.decode("ascii"), translated.decode("utf-8"))
