"""Containers: which are read, what an unread file is, and which the suffix of an output names."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import av

ALLOWED_DEMUXERS = (
    # what cameras, editors, broadcasters and the web use
    "mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpegtsraw", "mpeg", "mpegvideo", "flv", "live_flv",
    "kux", "asf", "asf_o", "ogg", "mxf", "gxf", "lxf", "nut", "nuv", "nsv", "ivf", "obu", "av1", "gif", "apng",
    "jpegxl_anim", "yuv4mpegpipe", "rm", "ivr", "wtv", "ty", "pva", "pmp", "dv", "swf", "cine", "r3d", "ser", "filmstrip",
    "mjpeg", "mjpeg_2000", "mpjpeg", "smjpeg", "mxg", "dhav", "ifv", "hxvs", "iv8", "lmlm4", "luodat", "lvf", "nc", "simbiosis_imx",
    "msnwctcp", "ingenient", "psxstr", "ipu", "usm", "thp", "xmv", "vividas", "vivo", "rpl", "derf",
    # bare streams
    "h264", "hevc", "vvc", "evc", "apv", "m4v", "h261", "h263", "vc1", "vc1test", "dirac", "dnxhd", "cavsvideo", "avs2", "avs3",
    # games and old computers
    "4xm", "anm", "avs", "bethsoftvid", "bfi", "bink", "bmv", "c93", "cdg", "cdxl", "dcstr", "dfa", "dsicin", "dxa", "ea", "ea_cdata",
    "film_cpk", "flic", "frm", "gdv", "hnm", "idcin", "iff", "ipmovie", "jv", "mgsts", "mm", "mods", "moflex", "mtv", "mv", "mvi", "paf",
    "pdv", "rl2", "roq", "sga", "siff", "smk", "smush", "tiertexseq", "tmv", "vmd", "wc3movie", "wsvqa", "yop",
)  # fmt: skip
"""The demuxers that may read a video, by FFmpeg 8: each reads one file, has video in it and recognizes it by its content.

Not here: what opens other files or connections (hls, dash, concat, sdp, rtp, rtsp, sap, image2, mlv, vobsub, webm_dash_manifest),
devices and scripts (lavfi and the grabbers), single pictures (*_pipe), and what needs to be told its size (rawvideo, v210).
"""

MUXER_BY_SUFFIX = {
    ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi", ".ts": "mpegts", ".m2ts": "mpegts",
    ".mpg": "mpeg", ".mxf": "mxf", ".nut": "nut", ".flv": "flv", ".wmv": "asf", ".3gp": "3gp", ".ivf": "ivf",
    ".gif": "gif", ".webp": "webp",
}  # fmt: skip
"""Suffix of the output -> FFmpeg's muxer."""

ENCODER_BY_MUXER = {
    "webm": "libvpx-vp9", "ivf": "libvpx-vp9", "mpeg": "mpeg2video", "asf": "wmv2", "gif": "gif", "webp": "libwebp",
}  # fmt: skip
"""The encoder where none is named, for containers that do not hold H.264, or are not played with it."""

DEFAULT_ENCODER = "libx264"

CONSTANT_RATE_MUXERS = frozenset({"avi", "mxf"})
"""Containers that count frames, in the order of decoding, and know no times."""

PICTURE_SUFFIX = "_pipe"
"""How FFmpeg names the demuxers of single pictures."""


NO_PROTOCOL = {"protocol_whitelist": "none"}
"""What a demuxer opens by itself, past PyAV, it opens by a protocol, and none is called so."""


def identify_container(path: Path) -> str | None:
    """Finds out what a file is that is not read as a video.

    Nothing but the file itself is opened, whatever it names.

    Returns:
        FFmpeg's name of the format; None where FFmpeg does not know it, or cannot read it alone.
    """

    def refuse(*_: Any) -> NoReturn:
        raise OSError("no other file is opened")

    try:
        with open(path, "rb") as file, av.open(file, "r", io_open=refuse, options=NO_PROTOCOL) as container:
            name: str = container.format.name
            return name
    except Exception:  # whatever a hostile file leads a demuxer to; the first error has been kept
        return None


def describe_unread(path: Path) -> str:
    """Says, as the end of a sentence, what a file is and what to do with it."""
    name = identify_container(path)
    if name is None:
        return "It may be cut off, damaged, or of a kind that is not read here."
    if name.endswith(PICTURE_SUFFIX) or name == "ico":
        return "It is a picture: process it with `dni-deploy run`."
    long_name = av.ContainerFormat(name.split(",")[0], "r").long_name
    if any(part in ALLOWED_DEMUXERS for part in name.split(",")):
        return f"It is {long_name}, cut off or damaged."
    return f"It is {long_name}, a format that is not read here; convert it, for example to .mkv."
