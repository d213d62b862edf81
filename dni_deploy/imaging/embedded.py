"""What image files hold beside the pixels, as a whole: read from one, and embedded into an encoded one."""

from __future__ import annotations

import io
from dataclasses import dataclass

from dni_deploy.imaging.color_profile import SRGB, ColorProfile, read_color_profile
from dni_deploy.imaging.image_formats import ImageFormat
from dni_deploy.imaging.image_source import ImageSource
from dni_deploy.imaging.metadata import NO_METADATA, Metadata, make_exif_block, read_exif_block, read_metadata, read_orientation
from dni_deploy.imaging.png_chunks import PngChunk, insert_chunks, read_chunks
from dni_deploy.imaging.tiff_tags import TagDirectory, add_tags, correct_exif, read_tiff


@dataclass(frozen=True)
class Embedded:
    """What an image file holds beside the pixels.

    Attributes:
        color: What the colors mean.
        metadata: What else the file knows.
        orientation: The EXIF orientation, 1 to 8, of the pixels as they are stored.
        notes: On everything that is damaged, unknown or too long, and was left out.
    """

    color: ColorProfile = SRGB
    metadata: Metadata = NO_METADATA
    orientation: int = 1
    notes: tuple[str, ...] = ()


NOTHING_EMBEDDED = Embedded()


def read_embedded(source: ImageSource) -> Embedded:
    """Reads what a file holds beside the pixels. Nothing in it keeps the pixels from being read.

    Args:
        source: The file; its position stays.
    """
    position = source.file.tell()
    try:
        notes: list[str] = []
        chunks, damaged = read_chunks(source.file) if source.format == "PNG" else ([], [])
        if damaged:
            notes.append(f"damaged or too long chunks were left out: {', '.join(sorted(set(damaged))[:8])}")
        exif, tags = _read_exif(source, chunks, notes)
        color, color_notes = read_color_profile(source, chunks, tags)
        metadata, metadata_notes = read_metadata(source, chunks, exif, tags)
        orientation = read_orientation(tags, metadata.xmp)
        if orientation >= 5:
            metadata = metadata.transpose()
        return Embedded(color, metadata, orientation, (*notes, *color_notes, *metadata_notes))
    finally:
        source.file.seek(position)


def _read_exif(source: ImageSource, chunks: list[PngChunk], notes: list[str]) -> tuple[bytes | None, TagDirectory | None]:
    if source.format == "TIFF":
        try:
            tags = read_tiff(source.file)
        except ValueError:  # the decoder reads it, so it is odd rather than damaged
            return None, None
        return make_exif_block(tags), tags
    exif = read_exif_block(source, chunks)
    if exif is None:
        return None, None
    try:
        return correct_exif(exif, {}), read_tiff(io.BytesIO(exif))
    except ValueError:
        notes.append("EXIF could not be read and was left out; the image was not rotated")
        return None, None


def embed(data: bytes, image_format: ImageFormat, color: ColorProfile, metadata: Metadata) -> bytes:
    """Adds colors and metadata to an encoded PNG or TIFF file; files of other formats have got them by the encoder."""
    if image_format.name == "PNG":
        return insert_chunks(data, [*color.list_png_chunks(), *metadata.list_png_chunks()])
    if image_format.name == "TIFF":
        tags = metadata.make_tags(color.icc)
        return add_tags(data, tags) if tags.tags or tags.children else data
    return data


def make_encoder_options(image_format: ImageFormat, color: ColorProfile, metadata: Metadata) -> dict[str, object]:
    """Makes the options of Pillow's encoder that write colors and metadata, for the formats that `embed` leaves to it."""
    if image_format.name in ("PNG", "TIFF"):
        return {}
    profile: dict[str, object] = {} if color.icc is None or not image_format.has_profile else {"icc_profile": color.icc}
    return {**profile, **metadata.make_encoder_options(image_format)}
