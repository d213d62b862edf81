"""Containers: what each suffix writes, what is read, and what a file that is not read is called."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from dni_deploy.errors import InputError
from dni_deploy.video_io.containers import (
    ALLOWED_DEMUXERS,
    CONSTANT_RATE_MUXERS,
    ENCODER_BY_MUXER,
    MUXER_BY_SUFFIX,
    describe_unread,
    identify_container,
)
from dni_deploy.video_io.encoder import EncoderOptions
from dni_deploy.video_io.video_file import open_video_file
from tests.support.video_clips import Clip, see
from tests.support.video_command import Make

VARIABLE = [0, 512, 1024, 2600, 3072]
"""Ticks of 1/12800 s: 25 frames a second, of which one is missing."""


@pytest.mark.parametrize("suffix", [suffix for suffix in MUXER_BY_SUFFIX if suffix != ".webp"])
def test_every_container_is_written_and_read(tmp_path: Path, make: Make, suffix: str) -> None:
    """By the encoder that suits it. Times stay equally far apart; some containers begin later, for the decoder's delay."""
    source = Clip(width=96, frames=5, audio=None).write(tmp_path / "in.mp4")
    report = make(source, tmp_path / f"out{suffix}", crf=None, preset=None)
    assert report.codec == ENCODER_BY_MUXER.get(MUXER_BY_SUFFIX[suffix], "libx264")
    after = see(tmp_path / f"out{suffix}")
    assert len(after.frames) == 5
    assert max(np.abs(one.astype(int) - other).mean() for one, other in zip(see(source).frames, after.frames, strict=True)) < 5
    assert all(
        abs(later - time - Fraction(1, 25)) < Fraction(1, 900)
        for time, later in zip(after.times, after.times[1:], strict=False)
    )
    make(tmp_path / f"out{suffix}", tmp_path / "again.mkv")
    assert len(see(tmp_path / "again.mkv").frames) == 5


def test_an_animated_webp_is_written(tmp_path: Path, make: Make) -> None:
    """FFmpeg writes it and does not read it; Pillow does."""
    make(Clip(frames=5, audio=None).write(tmp_path / "in.mp4"), tmp_path / "out.webp", crf=None, preset=None)
    with Image.open(tmp_path / "out.webp") as image:
        assert image.n_frames == 5  # type: ignore[attr-defined]
        assert image.size == (64, 48)
        assert image.info["loop"] == 0


@pytest.mark.parametrize("suffix", [suffix for suffix, muxer in MUXER_BY_SUFFIX.items() if muxer in CONSTANT_RATE_MUXERS])
def test_containers_of_one_rate_count_frames(tmp_path: Path, make: Make, suffix: str) -> None:
    source = Clip(frames=5, times=VARIABLE, audio=None).write(tmp_path / "in.mp4")
    make(source, tmp_path / f"out{suffix}")
    assert len(see(tmp_path / f"out{suffix}").frames) == 5


def test_an_encoder_that_is_named_is_kept() -> None:
    assert EncoderOptions(codec="ffv1").for_muxer("webm").codec == "ffv1"
    assert EncoderOptions().codec == "libx264"
    chosen = EncoderOptions(pixel_format="pal8", encoder_options={"gifflags": "0"}).for_muxer("gif")
    assert (chosen.codec, chosen.pixel_format, chosen.crf, chosen.preset) == ("gif", "pal8", None, None)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
def test_a_picture_belongs_to_run(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / f"in{suffix}")
    with pytest.raises(InputError, match="It is a picture: process it with `dni-deploy run`"):
        open_video_file(tmp_path / f"in{suffix}")


def test_a_format_that_is_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "in.mkv").write_text("1\n00:00:00,100 --> 00:00:00,300\nfirst\n\n")
    with pytest.raises(InputError, match="It is SubRip subtitle, a format that is not read here"):
        open_video_file(tmp_path / "in.mkv")


def test_finding_a_name_opens_no_other_file(tmp_path: Path) -> None:
    """A list of files is not followed, even to say what it is."""
    Clip(audio=None).write(tmp_path / "in.mp4")
    (tmp_path / "list.txt").write_text(f"ffconcat version 1.0\nfile '{tmp_path / 'in.mp4'}'\n")
    assert identify_container(tmp_path / "list.txt") is None
    (tmp_path / "relative.txt").write_text("ffconcat version 1.0\nfile in.mp4\n")
    assert identify_container(tmp_path / "relative.txt") is None
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nin.mp4\n#EXT-X-ENDLIST\n")
    assert identify_container(tmp_path / "list.m3u8") is None
    assert "of a kind that is not read here" in describe_unread(tmp_path / "list.txt")


def test_every_demuxer_is_one_of_ffmpeg() -> None:
    """A name with a typing error would read nothing; some are newer than the oldest FFmpeg that is used."""
    known = set()
    for name in ALLOWED_DEMUXERS:
        try:
            known.add(av.ContainerFormat(name, "r").name)
        except ValueError:
            continue
    assert len(set(ALLOWED_DEMUXERS) - known - {"vvc", "evc", "apv", "pdv"}) < 10
    assert not known & {"hls", "dash", "concat", "sdp", "image2", "lavfi", "rawvideo", "mlv"}
