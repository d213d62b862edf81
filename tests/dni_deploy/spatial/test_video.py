"""video with an alpha map: one for all frames, one per frame, ends over time, and interrupted jobs resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dni_deploy.alpha.log import AlphaLog
from dni_deploy.errors import CoefficientsError, InputError, MismatchError, UsageError
from dni_deploy.spatial.alpha_map import AlphaMapOptions
from dni_deploy.spatial.video import AlphaMapVideo
from dni_deploy.video_io.resume import job_folder_path
from dni_deploy.video_io.video_file import open_video_file
from tests.dni_deploy.video_io.test_resume import stop_engine_after
from tests.support.frame_session import Dimmer
from tests.support.gray_video import grey_film
from tests.support.video_clips import FRAMES, HEIGHT, WIDTH, Clip, see, write_display_matrix
from tests.support.video_command import Make


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return Clip().write(tmp_path / "in.mp4")


def mask(path: Path) -> Path:
    """White on the right, where the frame is unchanged (member a)."""
    gray = np.zeros((HEIGHT, WIDTH), np.uint8)
    gray[:, WIDTH // 2 :] = 255
    Image.fromarray(gray).save(path)
    return path


def pixels(path: Path) -> np.ndarray:
    return np.stack([frame.astype(np.float64) for frame in see(path).frames])


def test_one_map_for_all_frames(tmp_path: Path, make: Make, engine: Dimmer, clip: Path) -> None:
    make(clip, tmp_path / "out.mp4", None, alpha_map=mask(tmp_path / "mask.png"))
    output, whole = pixels(tmp_path / "out.mp4"), pixels(clip)
    edge = WIDTH // 2
    # Four columns from the edge, which 4:2:0 and the encoder's blocks blur. Elsewhere crf 8 leaves a few levels of 255.
    assert output[:, :, : edge - 4].mean() < 3
    assert np.abs(output[:, :, edge + 4 :] - whole[:, :, edge + 4 :]).mean() < 6
    assert engine.refits <= FRAMES + 2  # two levels cost one refit per frame


def test_alpha_map_ends_follow_a_timeline(tmp_path: Path, make: Make, clip: Path) -> None:
    options = AlphaMapOptions(mask(tmp_path / "mask.png"), white="0:a=1, 0.76s:b=1")
    make(clip, tmp_path / "out.mp4", "0:b=1, 0.76s:a=1", alpha_map=options, alpha_log=tmp_path / "log.jsonl")
    output, whole = pixels(tmp_path / "out.mp4"), pixels(clip)
    left, right = slice(0, WIDTH // 2 - 4), slice(WIDTH // 2 + 4, WIDTH)
    coefficients = np.linspace(0, 1, FRAMES)
    for side, coefficient in ((left, coefficients), (right, 1 - coefficients)):
        factors = output[:, :, side].mean(axis=(1, 2, 3)) / whole[:, :, side].mean(axis=(1, 2, 3))
        assert np.abs(factors - coefficient).max() < 0.05  # coding error, on means of half a frame
    log = AlphaLog.read(tmp_path / "log.jsonl", ("a", "b"))
    assert [round(log.at(0, frame).values[0], 6) for frame in range(FRAMES)] == [
        round(coefficient, 6) for coefficient in coefficients
    ]


def test_an_alpha_map_video_gives_each_frame_its_map(tmp_path: Path, make: Make, engine: Dimmer, clip: Path) -> None:
    """White moves from left to right; the map video is coded with loss and still needs only two levels."""
    maps = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    for number in range(FRAMES):
        maps[number, :, 2 * number : 2 * number + 24] = 255
    moving = grey_film(tmp_path / "maps.mp4", maps)
    source = open_video_file(clip)
    map_video = AlphaMapVideo(moving, source, 1)
    for number in range(FRAMES):
        alpha_map = map_video.read_map(number)
        off = np.abs(alpha_map.values[alpha_map.codes] - maps[number] / 255)
        assert np.median(off) == 0
        assert off.mean() < 0.03  # blurred edges
    make(clip, tmp_path / "out.mp4", None, alpha_map=moving)
    output, whole = pixels(tmp_path / "out.mp4"), pixels(clip)
    for number in (0, FRAMES // 2, FRAMES - 1):
        inside = slice(2 * number + 6, 2 * number + 18)
        assert np.abs(output[number, :, inside] - whole[number, :, inside]).mean() < 8
        outside = np.delete(output[number], np.s_[max(0, 2 * number - 8) : 2 * number + 32], axis=1)
        assert outside.mean() < 4


def test_a_mirrored_map_video_is_read_mirrored(tmp_path: Path, clip: Path) -> None:
    maps = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    maps[:, :8, :24] = 255
    path = write_display_matrix(grey_film(tmp_path / "maps.mp4", maps), (-1, 0, 0, 1))
    alpha_map = AlphaMapVideo(path, replace(open_video_file(clip), frame_count=2), 1).read_map(0)
    off = np.abs(alpha_map.values[alpha_map.codes] - maps[0, :, ::-1] / 255)
    assert off.mean() < 0.03  # blurred edges
    write_display_matrix(path, (0.7071, 0.7071, -0.7071, 0.7071))
    with pytest.raises(InputError, match="no multiple of 90 degrees"):
        AlphaMapVideo(path, replace(open_video_file(clip), frame_count=2), 1)


LATE = 2 * 18
"""Runs of the network, two per frame: of 18 frames at most 9 wait for the encoder, so that a segment of 8 is whole."""


@pytest.mark.parametrize("moving", [False, True])
def test_interrupted_jobs_resume(
    tmp_path: Path, make: Make, engine: Dimmer, monkeypatch: pytest.MonkeyPatch, clip: Path, moving: bool
) -> None:
    options: dict[str, object] = {"alpha_map": AlphaMapOptions(mask(tmp_path / "mask.png"), white="0:a=1, 0.3s:a=0.5,b=0.5")}
    if moving:
        maps = np.random.default_rng(0).integers(0, 2, (FRAMES, HEIGHT // 16, WIDTH // 16)) * 255
        options = {"alpha_map": grey_film(tmp_path / "maps.mkv", maps.repeat(16, axis=1).repeat(16, axis=2).astype(np.uint8))}
    alpha = "0:b=1, 0.5s:b=0.5,a=0.5"
    make(clip, tmp_path / "whole.mp4", alpha, alpha_log=tmp_path / "whole.jsonl", **options)
    with monkeypatch.context() as context:
        stop_engine_after(engine, context, LATE, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            make(clip, tmp_path / "out.mp4", alpha, alpha_log=tmp_path / "out.jsonl", **options)
    assert not (tmp_path / "out.mp4").exists()
    report = make(clip, tmp_path / "out.mp4", alpha, alpha_log=tmp_path / "out.jsonl", **options)
    assert report.resumed_frames >= 8
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_another_alpha_map_starts_another_job(
    tmp_path: Path, make: Make, engine: Dimmer, monkeypatch: pytest.MonkeyPatch, clip: Path
) -> None:
    options = AlphaMapOptions(mask(tmp_path / "mask.png"))
    with monkeypatch.context() as context:
        stop_engine_after(engine, context, LATE, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            make(clip, tmp_path / "out.mp4", 0.25, alpha_map=options)
    assert job_folder_path(tmp_path / "out.mp4").exists()
    for other in (None, AlphaMapOptions(options.mask, white=0.5), AlphaMapOptions(options.mask, levels=3)):
        with pytest.raises(UsageError, match="alpha map"):
            make(clip, tmp_path / "out.mp4", 0.25, alpha_map=other)


def test_invalid_maps_are_refused(tmp_path: Path, make: Make, clip: Path) -> None:
    gray = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    Image.fromarray(gray[0, :10]).save(tmp_path / "small.png")
    short, narrow = grey_film(tmp_path / "short.mp4", gray[:5]), grey_film(tmp_path / "narrow.mp4", gray[:, :, :32])
    colored = Clip().write(tmp_path / "colored.mp4")
    for name, kind, words in (
        (tmp_path / "small.png", MismatchError, "64x10 pixels and the image 64x48"),
        (short, MismatchError, "5 frames and the video 20"),
        (narrow, MismatchError, "32x48 pixels and the video 64x48"),
        (colored, InputError, "in color at frame 0"),
        (tmp_path / "none.mp4", InputError, "does not exist"),
    ):
        with pytest.raises(kind, match=words):
            make(clip, tmp_path / "out.mp4", None, alpha_map=name)
    with pytest.raises(CoefficientsError):
        make(clip, tmp_path / "out.mp4", None, alpha_map=AlphaMapOptions(mask(tmp_path / "mask.png"), white=1.5))
    with pytest.raises(UsageError, match="Which alpha"):
        make(clip, tmp_path / "out.mp4", None)
    with pytest.raises(UsageError, match="is the input"):
        make(clip, short, None, alpha_map=short, force=True)
    assert not (tmp_path / "out.mp4").exists()
    assert not job_folder_path(tmp_path / "out.mp4").exists()
    make(clip, tmp_path / "out.mp4", None, alpha_map=AlphaMapOptions(narrow, resize_to_fit=True))


def test_an_alpha_map_video_that_ends_early_writes_nothing(tmp_path: Path, make: Make, clip: Path) -> None:
    """MPEG transport streams do not store their frame count, so this is detected while rendering."""
    maps = grey_film(tmp_path / "maps.ts", np.zeros((FRAMES - 5, HEIGHT, WIDTH), np.uint8))
    with pytest.raises((InputError, MismatchError), match=r"must have (a map|one) for each"):
        make(clip, tmp_path / "out.mp4", None, alpha_map=maps)
    assert not (tmp_path / "out.mp4").exists()
    assert not job_folder_path(tmp_path / "out.mp4").exists()


def test_a_deep_video_keeps_its_depth_under_a_map(tmp_path: Path, make: Make) -> None:
    """White of a map is the identity, so 10-bit codes come back as they were."""
    source = Clip(frames=3, audio=None, pixels="yuv420p10le").write(tmp_path / "in.mp4")
    Image.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint8)).save(tmp_path / "white.png")
    make(source, tmp_path / "out.mkv", None, alpha_map=tmp_path / "white.png", codec="ffv1", crf=None, preset=None)
    before, after = see(source), see(tmp_path / "out.mkv")
    assert after.tags["pixels"] == "yuv420p10le"
    assert np.abs(before.frames[1].astype(int) - after.frames[1]).mean() < 1


def test_a_part_has_the_maps_of_its_own_frames(tmp_path: Path, make: Make, clip: Path) -> None:
    """Frame 12 of the video has map 12, whether the whole or a part is processed."""
    maps = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    maps[12:] = 255
    grey_film(tmp_path / "maps.mkv", maps)
    make(clip, tmp_path / "out.mp4", None, alpha_map=tmp_path / "maps.mkv", start="10f", end="14f")
    light = [frame.mean() for frame in see(tmp_path / "out.mp4").frames]
    assert max(light[:2]) < 3 < 40 < min(light[2:])
