"""PNG chunks: which are read, within which limits, and how texts are encoded."""

from __future__ import annotations

import io
import struct
import zlib

import pytest

from dni_deploy.imaging import png_chunks
from dni_deploy.imaging.png_chunks import (
    PngChunk,
    PngText,
    decode_profile,
    decode_text,
    encode_profile,
    insert_chunks,
    read_chunks,
)
from tests.support.color_files import encode, make_pixels


@pytest.mark.parametrize("text", [PngText("Title", "Grüße"), PngText("Title", "題"), PngText("Title", "a", "de", "Titel")])
def test_texts_come_back(text: PngText) -> None:
    assert decode_text(text.to_chunk()) == text


def test_compressed_texts_are_read() -> None:
    assert decode_text(PngChunk(b"zTXt", b"a\0\0" + zlib.compress("ü".encode("latin-1")))) == PngText("a", "ü")
    assert decode_text(PngChunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress("題".encode()))) == PngText("a", "題")


def test_compressed_texts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png_chunks, "MAX_METADATA_BYTES", 1000)
    for data in (b"a\0\0" + zlib.compress(bytes(1001)), b"a\0\0" + zlib.compress(bytes(10))[:-1], b"a\0\0junk", b"\0\0", b"a"):
        with pytest.raises(ValueError, match=r"text"):
            decode_text(PngChunk(b"zTXt", data))


def test_damaged_and_excessive_chunks_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    png = insert_chunks(encode(make_pixels(), "PNG"), [PngChunk(b"tEXt", b"a\0b"), PngChunk(b"tIME", bytes(7))])
    damaged = png.replace(b"a\0b", b"a\0c")
    chunks, left_out = read_chunks(io.BytesIO(damaged))
    assert ([chunk.name for chunk in chunks], left_out) == ([b"tIME"], ["tEXt"])
    monkeypatch.setattr(png_chunks, "MAX_METADATA_BYTES", 6)
    chunks, left_out = read_chunks(io.BytesIO(png))
    assert ([chunk.name for chunk in chunks], left_out) == ([b"tEXt"], ["tIME"])
    monkeypatch.undo()
    assert read_chunks(io.BytesIO(png[:38])) == ([], [])
    assert read_chunks(io.BytesIO(png[:33] + struct.pack(">I", 2**31) + b"tEXt"))[0] == []


def test_profiles_come_back() -> None:
    assert decode_profile(encode_profile(b"profile").data) == b"profile"
    for data in (b"", b"name", b"name\0\1x", b"name\0\0junk"):
        with pytest.raises(ValueError, match=r"damaged"):
            decode_profile(data)
