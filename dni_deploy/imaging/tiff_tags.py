"""Tags as TIFF files and EXIF blocks hold them: read with limits, corrected in place, written, and added to a TIFF file."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Type of a value -> its size. Source: TIFF 6.0, page 15; BigTIFF for 16 to 18."""

NUMBER_BYTES = {**VALUE_BYTES, 5: 4, 10: 4}
"""Type of a value -> size of the numbers in it, for the order of their bytes."""

FORMATS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q", 17: "q", 18: "Q"}

SHORT, LONG, RATIONAL, BYTE, ASCII, UNDEFINED = 3, 4, 5, 1, 2, 7

MAX_TAGS = 4096
"""In one directory."""

MAX_TAG_BYTES = 16 << 20
"""Of one value; longer ones, such as the offsets of a gigapixel's strips, are passed over when tags are read for their content."""

MAX_NUMBERS = 3 * 65536
"""Of one value that is read as numbers: three curves of 16 bits."""

EXIF, GPS, INTEROPERABILITY = 0x8769, 0x8825, 0xA005

IMAGE_WIDTH, IMAGE_LENGTH, ORIENTATION = 256, 257, 274

PIXEL_WIDTH, PIXEL_HEIGHT = 40962, 40963

THUMBNAIL_OFFSET, THUMBNAIL_BYTES = 513, 514


@dataclass(frozen=True)
class Tag:
    """One value.

    Attributes:
        type: Type of the value, a key of VALUE_BYTES.
        count: Number of values.
        data: The values, in the order of bytes of their file.
        position: Where they are in the file or block; 0 if they come from none.
    """

    type: int
    count: int
    data: bytes
    position: int = 0

    def read_numbers(self, order: str) -> tuple[float, ...]:
        """Returns the values as numbers, rationals divided; () for a text.

        Args:
            order: Order of the bytes, "<" or ">".
        """
        if self.type in (5, 10):
            parts = struct.unpack(f"{order}{2 * self.count}{'I' if self.type == 5 else 'i'}", self.data)
            return tuple(a / b if b else 0.0 for a, b in zip(parts[::2], parts[1::2], strict=True))
        if self.type not in FORMATS:
            return ()
        return struct.unpack(f"{order}{self.count}{FORMATS[self.type]}", self.data)

    def swap(self) -> Tag:
        """Returns the value with the other order of bytes."""
        size = NUMBER_BYTES[self.type]
        data = b"".join(self.data[at : at + size][::-1] for at in range(0, len(self.data), size)) if size > 1 else self.data
        return Tag(self.type, self.count, data)


@dataclass
class TagDirectory:
    """The tags of one directory.

    Attributes:
        order: Order of the bytes, "<" or ">".
        tags: Tag number -> value.
        children: Number of a tag that points to a directory -> that directory.
        end: Where the directory's own bytes end in the file; its values may lie behind that.
        next_pointer: Where the file says where the next directory is.
    """

    order: str = "<"
    tags: dict[int, Tag] = field(default_factory=dict)
    children: dict[int, TagDirectory] = field(default_factory=dict)
    end: int = 0
    next_pointer: int = 0

    def numbers(self, number: int) -> tuple[float, ...]:
        """Returns the numbers of a tag; () if it is absent, a text, or has more than MAX_NUMBERS."""
        tag = self.tags.get(number)
        return () if tag is None or tag.count > MAX_NUMBERS else tag.read_numbers(self.order)

    def data(self, number: int) -> bytes | None:
        """Returns the bytes of a tag, None if it is absent or empty."""
        return (self.tags[number].data or None) if number in self.tags else None

    def text(self, number: int) -> str:
        """Returns the text of a tag, "" if it is absent."""
        return (self.data(number) or b"").split(b"\0")[0].decode("utf-8", "replace")

    def set_order(self, order: str) -> TagDirectory:
        """Returns the directory with another order of bytes."""
        tags = self.tags if order == self.order else {number: tag.swap() for number, tag in self.tags.items()}
        return TagDirectory(order, dict(tags), {number: child.set_order(order) for number, child in self.children.items()})


def make_tag(order: str, value_type: int, values: bytes | Iterable[int]) -> Tag:
    """Makes a value.

    Args:
        order: Order of the bytes, "<" or ">".
        value_type: BYTE, ASCII or UNDEFINED for bytes, SHORT or LONG for numbers, RATIONAL for pairs of numbers.
        values: The bytes or the numbers.
    """
    if isinstance(values, bytes):
        return Tag(value_type, len(values), values)
    numbers = tuple(values)
    count = len(numbers) // 2 if value_type == RATIONAL else len(numbers)
    return Tag(value_type, count, struct.pack(f"{order}{len(numbers)}{'H' if value_type == SHORT else 'I'}", *numbers))


def read_tiff(file: BinaryIO, *, max_tag_bytes: int = MAX_TAG_BYTES) -> TagDirectory:
    """Reads the first directory of a TIFF file or EXIF block, with its EXIF, GPS and interoperability directories.

    Values that are longer than `max_tag_bytes` or reach beyond the file are left out.

    Raises:
        ValueError: It is no TIFF file, or its first directory is damaged.
    """
    file.seek(0)
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 8:
        raise ValueError("There is no TIFF header.")
    magic = struct.unpack_from(f"{order}H", head, 2)[0]
    if magic == 42:
        offset = struct.unpack_from(f"{order}I", head, 4)[0]
    elif magic == 43 and len(head) == 16:
        offset = struct.unpack_from(f"{order}Q", head, 8)[0]
    else:
        raise ValueError("There is no TIFF header.")
    return _read_directory(file, order, offset, magic == 43, (EXIF, GPS), max_tag_bytes)


def _read_directory(
    file: BinaryIO, order: str, offset: int, is_big: bool, pointers: Iterable[int], max_tag_bytes: int
) -> TagDirectory:
    count_format, entry_format, inline_bytes = ("Q", "HHQ8s", 8) if is_big else ("H", "HHI4s", 4)
    pointer_format = "Q" if is_big else "I"
    head_bytes, entry_bytes = struct.calcsize(order + count_format), struct.calcsize(order + entry_format)
    file.seek(0, io.SEEK_END)
    file_bytes = file.tell()
    if not 8 <= offset <= file_bytes - head_bytes:
        raise ValueError("A directory lies outside the file.")
    file.seek(offset)
    count = struct.unpack(order + count_format, file.read(head_bytes))[0]
    entries = file.read(min(count, MAX_TAGS) * entry_bytes)
    if count == 0 or count > MAX_TAGS or len(entries) < count * entry_bytes:
        raise ValueError("A directory is damaged.")
    end = offset + head_bytes + len(entries)
    directory = TagDirectory(order, end=end + inline_bytes, next_pointer=end)
    for index, (number, value_type, value_count, inline) in enumerate(struct.iter_unpack(order + entry_format, entries)):
        size = VALUE_BYTES.get(value_type, 0) * value_count
        if not 0 < size <= max_tag_bytes:
            continue
        position = offset + head_bytes + (index + 1) * entry_bytes - inline_bytes
        if size > inline_bytes:
            position = struct.unpack(order + pointer_format, inline)[0]
            if position + size > file_bytes:
                continue
            file.seek(position)
        data = inline[:size] if size <= inline_bytes else file.read(size)
        if number in pointers and value_count == 1 and value_type in (4, 13, 16, 18):
            child_offset = struct.unpack(f"{order}{FORMATS[value_type]}", data)[0]
            below = (INTEROPERABILITY,) if number == EXIF else ()
            try:
                directory.children[number] = _read_directory(file, order, child_offset, is_big, below, max_tag_bytes)
            except ValueError:
                continue  # the rest can be read
        else:
            directory.tags[number] = Tag(value_type, value_count, data, position)
    return directory


def write_directory(directory: TagDirectory, offset: int, *, is_big: bool = False) -> bytes:
    """Encodes a directory, the last one of its file, with its children.

    Args:
        directory: What to encode.
        offset: Where in the file the result will be; even.
        is_big: Whether for a BigTIFF file.
    """
    order = directory.order
    count_format, entry_format, pointer_format, inline_bytes = ("Q", "HHQ", "Q", 8) if is_big else ("H", "HHI", "I", 4)
    numbers = sorted({*directory.tags, *directory.children})
    head_bytes = struct.calcsize(order + count_format)
    values_offset = offset + head_bytes + (struct.calcsize(order + entry_format) + inline_bytes) * len(numbers) + inline_bytes
    entries, values = b"", b""
    for number in numbers:
        at = values_offset + len(values)
        if number in directory.children:
            entries += struct.pack(f"{order}{entry_format}{pointer_format}", number, 18 if is_big else LONG, 1, at)
            block = write_directory(directory.children[number], at, is_big=is_big)
        else:
            tag = directory.tags[number]
            is_inline = len(tag.data) <= inline_bytes
            entries += struct.pack(f"{order}{entry_format}", number, tag.type, tag.count)
            entries += tag.data.ljust(inline_bytes, b"\0") if is_inline else struct.pack(order + pointer_format, at)
            block = b"" if is_inline else tag.data
        values += block + bytes(len(block) % 2)
    return struct.pack(order + count_format, len(numbers)) + entries + bytes(inline_bytes) + values


def write_exif(directory: TagDirectory) -> bytes:
    """Makes an EXIF block, which is a TIFF file without an image."""
    head = b"II*\0" if directory.order == "<" else b"MM\0*"
    return head + struct.pack(f"{directory.order}I", 8) + write_directory(directory, 8)


def add_tags(tiff: bytes, extra: TagDirectory) -> bytes:
    """Adds tags to an encoded TIFF file of one image; they replace those that it has.

    Raises:
        ValueError: It is no TIFF file.
    """
    directory = read_tiff(io.BytesIO(tiff), max_tag_bytes=len(tiff))
    is_big = tiff[2:4] in (b"+\0", b"\0+")
    extra = extra.set_order(directory.order)
    directory.tags.update(extra.tags)
    directory.children.update(extra.children)
    tiff += bytes(len(tiff) % 2)
    at, form = (8, "Q") if is_big else (4, "I")
    pointer = struct.pack(directory.order + form, len(tiff))
    return tiff[:at] + pointer + tiff[at + len(pointer) :] + write_directory(directory, len(tiff), is_big=is_big)


def correct_exif(exif: bytes, values: Mapping[int, int]) -> bytes:
    """Corrects numbers in an EXIF block and removes its thumbnail; every other byte stays where it is.

    Makers' notes hold offsets from the beginning of the block, which would be wrong if anything moved.

    Args:
        exif: The block, without the prefix "Exif".
        values: Tag number -> new number; only tags that the block has are changed, in whichever directory they are.

    Raises:
        ValueError: The block is damaged.
    """
    directory = read_tiff(io.BytesIO(exif))
    if exif[2:4] not in (b"*\0", b"\0*"):
        raise ValueError("This is no EXIF block.")
    block = bytearray(exif)
    order = directory.order
    is_last = _erase_thumbnail(block, directory)
    end = 8
    for part in _walk(directory):
        end = max(end, part.end, *(tag.position + len(tag.data) for tag in part.tags.values()), 0)
        for number, value in values.items():
            tag = part.tags.get(number)
            if tag is not None and tag.count == 1 and tag.type in (SHORT, LONG):
                # A value of up to 4 bytes is in its entry, behind type and count.
                value_type = SHORT if tag.type == SHORT and value < 2**16 else LONG
                data = struct.pack(f"{order}{FORMATS[value_type]}", value).ljust(4, b"\0")
                block[tag.position - 6 : tag.position + 4] = struct.pack(f"{order}HI", value_type, 1) + data
    return bytes(block[:end] if is_last else block)


def _walk(directory: TagDirectory) -> Iterable[TagDirectory]:
    yield directory
    for child in directory.children.values():
        yield from _walk(child)


def _erase_thumbnail(block: bytearray, directory: TagDirectory) -> bool:
    """Overwrites the thumbnail with zeros; returns whether it is what the block ends with, so that nothing else is behind it."""
    pointer = f"{directory.order}I"
    at = directory.next_pointer
    if at + 4 > len(block):
        return False
    offset = struct.unpack_from(pointer, block, at)[0]
    struct.pack_into(pointer, block, at, 0)
    try:
        thumbnail = _read_directory(io.BytesIO(block), directory.order, offset, False, (), len(block))
        begin, size = (int(thumbnail.numbers(number)[0]) for number in (THUMBNAIL_OFFSET, THUMBNAIL_BYTES))
    except (ValueError, IndexError):
        return False
    values = [tag for part in _walk(directory) for tag in part.tags.values()]
    overlaps = any(tag.position < begin + size and begin < tag.position + len(tag.data) for tag in values)
    if begin < 8 or begin + size > len(block) or overlaps:
        return False
    block[begin : begin + size] = bytes(size)
    return begin + size >= len(block) - 1
