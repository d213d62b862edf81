"""Notes on the format of the output, where it is not that of the source."""

from __future__ import annotations

from collections.abc import Iterator

from av.codec import Codec
from av.video.format import VideoFormat

from dni_deploy.video_io.color import component_bits, find_subsampling, has_transparency, is_gray
from dni_deploy.video_io.encoder import OutputFormat
from dni_deploy.video_io.hdr import TRANSFER_NAMES
from dni_deploy.video_io.pixel_formats import DEFAULT_FORMAT, choose_alignment, describe_pixel_format, list_pixel_formats
from dni_deploy.video_io.video_file import VideoFile


def describe_output_format(source: VideoFile, scale: int, target: OutputFormat, codec: str) -> Iterator[str]:
    """Describes what the pixel format of the output changes, one phrase each."""
    before, after = VideoFormat(source.pixel_format), VideoFormat(target.pixel_format)
    size = (source.width * scale, source.height * scale)
    if size != (target.width, target.height):
        kind = ":".join(find_subsampling(after))
        yield f"{size[0]}x{size[1]} becomes {target.width}x{target.height}, for {kind}: {_list_repeated(size, target)}"
    lost = list(_list_losses(before, after))
    if lost:
        written = f"{describe_pixel_format(source.pixel_format)} is written as {describe_pixel_format(target.pixel_format)}"
        yield f"{written}: {' and '.join(lost)} left out"
    elif target.pixel_format != DEFAULT_FORMAT and target.pixel_format != source.pixel_format:
        has_default = DEFAULT_FORMAT in list_pixel_formats(Codec(codec, "w"))
        hint = f"; --pix-fmt {DEFAULT_FORMAT} plays everywhere" if has_default else ""
        yield f"written as {target.pixel_format} ({describe_pixel_format(target.pixel_format)}){hint}"
    if target.color.transfer in TRANSFER_NAMES and component_bits(after) == 8:
        yield f"{TRANSFER_NAMES[target.color.transfer]} in 8 bits shows bands; --codec libx265 keeps 10"
    if target.color.is_full_range != source.color.is_full_range and not is_gray(after):
        yield f"limited range becomes full range, since the encoder takes {target.pixel_format}"


def _list_losses(before: VideoFormat, after: VideoFormat) -> Iterator[str]:
    if has_transparency(before) and not has_transparency(after) and not before.has_palette:
        yield "transparency"
    before_bits, after_bits = component_bits(before), component_bits(after)
    if before_bits > after_bits:
        yield f"{before_bits - after_bits} bits"
    if not (is_gray(before) or after.is_rgb or after.has_palette or is_gray(after)):
        across, down = choose_alignment(after.name)
        was_across, was_down = choose_alignment(before.name)
        if across > was_across or down > was_down:
            yield "detail of color"


def _list_repeated(size: tuple[int, int], target: OutputFormat) -> str:
    counts = ((target.width - size[0], "column"), (target.height - size[1], "row"))
    return " and ".join(f"the last {word} is repeated" for count, word in counts if count)
