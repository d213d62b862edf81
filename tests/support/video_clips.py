"""Clips: small videos made from scikit-image's photographs by panning and zooming, with every property that tests need."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage import data

WIDTH, HEIGHT, FRAMES, RATE = 64, 48, 20, 25
MATRIX = {"bt709": 1, "bt601": 6, "bt2020": 9, None: 2}


@cache
def photograph(name: str) -> NDArray[np.uint8]:
    """Returns a photograph of scikit-image, uint8 (H, W, 3), read once."""
    pixels: NDArray[np.uint8] = getattr(data, name)()
    return pixels


def make_frame(index: int, width: int = WIDTH, height: int = HEIGHT, of: str = "astronaut") -> NDArray[np.uint8]:
    """Returns one frame: a window over a photograph that moves right and down and grows; uint8 (height, width, 3)."""
    photo = photograph(of)
    side = 160 + 2 * (index % 60)
    left, top = (3 * index) % (photo.shape[1] - side), (2 * index) % (photo.shape[0] - side)
    window = Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
    return np.asarray(window)


@dataclass
class Clip:
    """The properties of a video; `write` creates it.

    times     timestamps in ticks of `time_base`; None: evenly, `frames` of them.
    audio     an encoder's name, or None.
    """

    width: int = WIDTH
    height: int = HEIGHT
    frames: int = FRAMES
    times: Sequence[int] | None = None
    time_base: Fraction = Fraction(1, 12800)
    codec: str = "libx264"
    pixels: str = "yuv420p"
    matrix: str | None = "bt709"
    full: bool = False
    aspect: Fraction | None = None
    audio: str | None = "aac"
    options: dict[str, str] | None = None
    gop: int = 8

    def write(self, path: Path) -> Path:
        with av.open(str(path), "w", container_options={"fflags": "+bitexact"}) as output:
            options = {"crf": "10", "preset": "ultrafast", "bf": "2"} if self.codec.startswith("libx26") else {}
            video: Any = output.add_stream(self.codec, rate=RATE, options={**options, **(self.options or {})})
            context = video.codec_context
            video.width, video.height, video.pix_fmt = self.width, self.height, self.pixels
            context.time_base, context.gop_size = self.time_base, self.gop
            context.colorspace, context.color_range = MATRIX[self.matrix], 2 if self.full else 1
            if self.matrix is not None:
                context.color_primaries, context.color_trc = 1, 1
            if self.aspect is not None:
                context.sample_aspect_ratio = self.aspect
            voice: Any = output.add_stream(self.audio, rate=48000, layout="stereo") if self.audio else None
            times = self.times or [int(index / RATE / self.time_base) for index in range(self.frames)]
            for index, pts in enumerate(times):
                frame = self._frame(index)
                frame.pts, frame.time_base = pts, self.time_base
                output.mux(video.encode(frame))
            output.mux(video.encode(None))
            if voice is not None:
                for chunk in sound(float(times[-1] * self.time_base) + 1 / RATE):
                    output.mux(voice.encode(chunk))
                output.mux(voice.encode(None))
        return path

    def _frame(self, index: int) -> av.VideoFrame:
        rgb = av.VideoFrame.from_ndarray(make_frame(index, self.width, self.height), format="rgb24")
        names = {"bt709": "ITU709", "bt601": "ITU601", "bt2020": "BT2020", None: "ITU601"}
        if self.pixels in ("rgb24", "bgr24", "gbrp", "bgr0"):
            return rgb.reformat(format=self.pixels)
        return rgb.reformat(
            format=self.pixels,
            dst_colorspace=names[self.matrix],
            src_color_range="JPEG",
            dst_color_range="JPEG" if self.full else "MPEG",
        )


def write_telecine(path: Path, frames: int = 12) -> Path:
    """Writes MPEG-2 whose every other frame is marked to be shown for three fields (ISO 13818-2, 6.3.10), as on a DVD."""
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("mpeg2video", rate=Fraction(30000, 1001), options={"flags": "+ildct+ilme"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(make_frame(index), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1001, 30000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    data = bytearray(path.read_bytes())
    place, count = -1, 0
    while (place := data.find(b"\0\0\1\xb5", place + 1)) >= 0:
        if data[place + 4] >> 4 == 8:  # a picture coding extension
            data[place + 7] |= 2 * (count % 2 == 0)  # repeat_first_field
            data[place + 8] |= 0x80  # progressive_frame
            count += 1
    path.write_bytes(data)
    return path


def sound(seconds: float) -> Iterator[av.AudioFrame]:
    """Yields a rising tone, in frames of 1024 samples."""
    for start in range(0, int(seconds * 48000), 1024):
        phase = np.arange(start, start + 1024) / 48000
        wave = (0.3 * np.sin(2 * np.pi * (220 + 200 * phase) * phase)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        yield frame


def write_display_matrix(path: Path, matrix: Sequence[float]) -> Path:
    """Writes a display matrix (a, b, c, d) into an MP4's first track header (ISO 14496-12, 8.3.2).

    It sends a point (x, y) to (ax + cy, bx + dy), y downward.
    """
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    for place, value in zip((0, 1, 3, 4), matrix, strict=True):
        data[start + 4 * place : start + 4 * place + 4] = round(value * (1 << 16)).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return path


def write_edit_list(source: Path, target: Path, parts: Sequence[tuple[float, float]]) -> Path:
    """Writes an MP4 again with other edit lists: it shows these parts, in seconds, one after the other (ISO 14496-12, 8.6.6)."""

    def read_boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
        while data:
            size = int.from_bytes(data[:4], "big")
            yield data[4:8], data[8:size]
            data = data[size:]

    def make_box(kind: bytes, content: bytes) -> bytes:
        return (len(content) + 8).to_bytes(4, "big") + kind + content

    def edit_track(track: bytes, movie_scale: int) -> bytes:
        scale = int.from_bytes(track[track.index(b"mdhd") + 16 :][:4], "big")
        # The first frame's time, as the muxer's own edit list of one entry has it.
        start = int.from_bytes(track[track.index(b"elst") + 16 :][:4], "big") if b"elst" in track else 0
        entries = b"".join(
            struct.pack(">IiHH", round((end - begin) * movie_scale), start + round(begin * scale), 1, 0) for begin, end in parts
        )
        edits = make_box(b"edts", make_box(b"elst", struct.pack(">II", 0, len(parts)) + entries))
        boxes = [(kind, make_box(kind, content)) for kind, content in read_boxes(track) if kind != b"edts"]
        return b"".join(box + (edits if kind == b"tkhd" else b"") for kind, box in boxes)

    boxes = list(read_boxes(source.read_bytes()))
    assert boxes[-1][0] == b"moov"  # no offset changes
    movie_scale = int.from_bytes(next(content for kind, content in read_boxes(boxes[-1][1]) if kind == b"mvhd")[12:16], "big")
    movie = b"".join(
        make_box(kind, edit_track(content, movie_scale) if kind == b"trak" else content)
        for kind, content in read_boxes(boxes[-1][1])
    )
    target.write_bytes(b"".join(make_box(*box) for box in boxes[:-1]) + make_box(b"moov", movie))
    return target


def copy_packets(source: Path, target: Path, shift_s: Fraction = Fraction(0)) -> Path:
    """Copies all packets and chapters into another container, with all times shifted."""
    with av.open(str(source)) as container, av.open(str(target), "w") as output:
        copies = {stream.index: output.add_stream_from_template(stream) for stream in container.streams}
        chapters: Any = container.chapters()
        for chapter in chapters:
            ticks = round(shift_s / chapter["time_base"])
            chapter.update(start=chapter["start"] + ticks, end=chapter["end"] + ticks)
        output.set_chapters(chapters)
        for packet in container.demux(*(stream for stream in container.streams if stream.type != "attachment")):
            if packet.size:
                ticks = round(shift_s / packet.time_base)
                packet.pts = None if packet.pts is None else packet.pts + ticks
                packet.dts = None if packet.dts is None else packet.dts + ticks
                packet.stream = copies[packet.stream_index]
                output.mux(packet)
    return target


def with_subtitles(source: Path, target: Path) -> Path:
    """Copies the packets and adds two subtitle lines, a chapter, a title and an attached file."""
    lines = "1\n00:00:00,100 --> 00:00:00,300\nfirst\n\n2\n00:00:00,400 --> 00:00:00,700\nsecond\n"
    text = source.with_suffix(".srt")
    text.write_text(lines)
    with av.open(str(source)) as video, av.open(str(text)) as subtitles, av.open(str(target), "w") as output:
        copies = {
            (container.name, stream.index): output.add_stream_from_template(stream)
            for container in (video, subtitles)
            for stream in container.streams
        }
        copies[(subtitles.name, 0)].metadata["language"] = "eng"
        output.add_attachment("font.ttf", "application/x-truetype-font", b"no font" * 9)
        output.metadata["title"] = "a title"
        output.set_chapters([{"id": 1, "start": 0, "end": 400, "time_base": Fraction(1, 1000), "metadata": {"title": "one"}}])
        for container in (subtitles, video):
            for packet in container.demux():
                if packet.size:
                    packet.stream = copies[(container.name, packet.stream_index)]
                    output.mux(packet)
    return target


@dataclass(frozen=True)
class Seen:
    """A video as a player sees it: frames, their times in seconds, tags of the first one, and each other stream's checksum."""

    frames: tuple[NDArray[np.uint8], ...]
    times: tuple[Fraction, ...]
    tags: dict[str, Any]
    others: tuple[str, ...]
    packets: str


def see(path: Path) -> Seen:
    """Decodes a video by PyAV alone: frames as RGB by their tags."""
    frames, times, tags = [], [], {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for frame in container.decode(stream):
            assert frame.pts is not None
            tags = tags or {
                "matrix": int(frame.colorspace),
                "range": int(frame.color_range),
                "primaries": int(frame.color_primaries),
                "transfer": int(frame.color_trc),
                "aspect": stream.sample_aspect_ratio,
                "rotation": frame.rotation,
                "pixels": frame.format.name,
            }
            frames.append(frame.to_ndarray(format="rgb24"))
            times.append(frame.pts * frame.time_base)
    with av.open(str(path)) as container:
        sums = {stream.index: sha256() for stream in container.streams}
        for packet in container.demux():
            if packet.dts is not None:
                assert packet.pts is not None
                times_s = [Fraction(value) * packet.time_base for value in (packet.pts, packet.dts, packet.duration)]
                sums[packet.stream.index].update(
                    f"{times_s[0]} {times_s[1]} {times_s[2]} {packet.is_keyframe}".encode() + bytes(packet)
                )
        video = sums[container.streams.video[0].index].hexdigest()
        others = tuple(sums[other.index].hexdigest() for other in container.streams if other.type in ("audio", "subtitle"))
        return Seen(tuple(frames), tuple(times), tags, others, video)
