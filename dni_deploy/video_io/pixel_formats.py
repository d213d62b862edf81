"""Which pixel format an encoder gets: the nearest to that of the source in the encoder's own list."""

from __future__ import annotations

from av.codec import Codec
from av.codec.codec import find_best_pix_fmt_of_list
from av.video.format import VideoFormat

from dni_deploy.errors import UsageError, escape_name
from dni_deploy.video_io.color import component_bits, find_subsampling, has_transparency, is_gray

MAX_CANDIDATES = 8
"""Number of formats that are tried where an encoder lists one and refuses it, as mjpeg does with limited range."""

DEFAULT_FORMAT = "yuv420p"
"""The format that every player shows: 4:2:0 of 8 bits."""


def list_pixel_formats(codec: Codec) -> list[str]:
    """Lists the formats in main memory that an encoder takes, in its own order; empty where it takes all."""
    names = dict.fromkeys(video_format.name for video_format in codec.video_formats or ())
    return [name for name in names if VideoFormat(name).components]


def rank_pixel_formats(codec: Codec, source: str) -> list[str]:
    """Ranks the formats of an encoder by their distance to a source.

    Depth, chroma, transparency and being RGB are kept as far as the encoder can, by FFmpeg's own rule
    (avcodec_find_best_pix_fmt_of_list). 8-bit gray becomes 4:2:0 where the encoder has it, since few players show gray.

    Args:
        codec: The encoder.
        source: The source's format, by FFmpeg's name.

    Returns:
        At most MAX_CANDIDATES formats, the nearest first.
    """
    wanted = _to_planar(VideoFormat(source))
    remaining = list_pixel_formats(codec) or [wanted]
    gray = [name for name in remaining if is_gray(VideoFormat(name))]
    if is_gray(VideoFormat(source)) and (not gray or DEFAULT_FORMAT in remaining):
        bits = component_bits(VideoFormat(source))
        wanted = DEFAULT_FORMAT if bits == 8 else f"yuv420p{bits}le"
    if not is_gray(VideoFormat(wanted)) and len(gray) < len(remaining):
        remaining = [name for name in remaining if name not in gray]  # a network's output may be in color
    ranked: list[str] = []
    if wanted in remaining:
        ranked.append(wanted)
        remaining.remove(wanted)
    while remaining and len(ranked) < MAX_CANDIDATES:
        best, _ = find_best_pix_fmt_of_list(remaining, wanted, has_transparency(VideoFormat(wanted)))
        name = best.name if best is not None else remaining[0]
        remaining.remove(name)
        ranked.append(name)
    if "pal8" in ranked + remaining and VideoFormat(ranked[0]).padded_bits_per_pixel <= 8 and not is_gray(VideoFormat(wanted)):
        ranked = ["pal8", *(name for name in ranked if name != "pal8")]  # a palette of the frame's own colors
    return ranked


def check_pixel_format(codec: Codec, name: str) -> str:
    """Checks that an encoder takes a format.

    Returns:
        The name.

    Raises:
        UsageError: There is no such format, or the encoder does not take it.
    """
    listed = list_pixel_formats(codec)
    try:
        is_known = bool(VideoFormat(name).components)
    except ValueError:
        is_known = False
    if not is_known or (listed and name not in listed):
        takes = f"{escape_name(codec.name)} takes {', '.join(listed)}" if listed else "name one of FFmpeg's"
        raise UsageError(f"The encoder {escape_name(codec.name)} does not take the pixel format {escape_name(name)}; {takes}.")
    return name


def choose_alignment(pixel_format: str) -> tuple[int, int]:
    """Returns what width and height must be multiples of, so that each chroma sample covers whole pixels."""
    video_format = VideoFormat(pixel_format)
    if video_format.is_rgb or video_format.has_palette or is_gray(video_format):
        return 1, 1
    return {"420": (2, 2), "422": (2, 1), "444": (1, 1), "440": (1, 2), "411": (4, 1), "410": (4, 4)}[
        find_subsampling(video_format)
    ]


def describe_pixel_format(name: str) -> str:
    """Describes a format in the words of editors, such as "4:2:2, 10 bits"."""
    video_format = VideoFormat(name)
    if video_format.has_palette:
        return "a palette of 256 colors"
    if is_gray(video_format):
        kind = "gray"
    elif video_format.is_rgb:
        kind = "RGB"
    else:
        kind = ":".join(find_subsampling(video_format))
    bits = max(component.bits for component in video_format.components)
    return f"{kind}, {bits} bits{', with transparency' if has_transparency(video_format) else ''}"


def _to_planar(source: VideoFormat) -> str:
    """Names the plain planar format that holds what a packed, semi-planar or full-range one does."""
    bits, transparent = component_bits(source), has_transparency(source)
    if source.is_rgb or source.has_palette:
        if bits == 8:
            return "rgba" if transparent else "rgb24"
        return source.name if source.name.startswith("gbr") else ("rgba64le" if transparent else "rgb48le")
    if is_gray(source):
        return source.name
    return f"yuv{'a' if transparent else ''}{find_subsampling(source)}p" + (f"{bits}le" if bits > 8 else "")
