"""video: every stream of the input is kept, and alpha follows its timeline."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import Colorspace

from dni_deploy.alpha.log import AlphaLog
from dni_deploy.video_io.resume import job_folder_path
from tests.support.frame_session import Dimmer
from tests.support.video_clips import Clip, see, with_subtitles
from tests.support.video_command import Make

VARIABLE = [
    0,
    512,
    1024,
    2000,
    2512,
    3700,
    4000,
    5000,
    5512,
    6024,
    7000,
    8000,
    9000,
    9512,
    10024,
    11000,
    12000,
    13000,
    14000,
    15001,
]
LOSSY = 30.0
"""dB: 4:2:0 and two encodings with crf 8 and 10 of a frame of 64x48 leave 33 to 40."""


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(np.float64) - b) ** 2)))


@pytest.mark.parametrize(
    "clip",
    [
        Clip(),
        Clip(times=VARIABLE),
        Clip(matrix="bt601", full=True),
        Clip(aspect=Fraction(4, 3)),
        pytest.param(
            Clip(matrix="bt2020"),
            marks=pytest.mark.skipif("BT2020" not in Colorspace.__members__, reason="this PyAV does not know it"),
        ),
        Clip(audio=None, frames=1),
    ],
    ids=["plain", "variable rate", "full range", "aspect", "bt2020", "one frame"],
)
def test_video_keeps_audio_metadata_and_timing(tmp_path: Path, make: Make, clip: Clip) -> None:
    source = clip.write(tmp_path / "in.mp4")
    report = make(source, tmp_path / "out.mp4")
    before, after = see(source), see(tmp_path / "out.mp4")
    assert report.frames == len(before.frames) == len(after.frames)
    assert after.times == before.times
    assert after.others == before.others
    assert after.tags == before.tags
    assert min(map(psnr, before.frames, after.frames)) > LOSSY
    assert not job_folder_path(tmp_path / "out.mp4").exists()
    json.dumps(report.to_json(), allow_nan=False)


def test_subtitles_chapters_and_titles_are_kept(tmp_path: Path, make: Make) -> None:
    source = with_subtitles(Clip().write(tmp_path / "bare.mkv"), tmp_path / "in.mkv")
    make(source, tmp_path / "out.mkv")
    before, after = see(source), see(tmp_path / "out.mkv")
    assert len(after.others) == 2
    assert after.others == before.others
    assert after.times == before.times
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert container.metadata["title"] == "a title"
        assert container.streams[2].language == "eng"
        assert container.streams.attachments[0].data == b"no font" * 9
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == ["one"]


def test_attachments_that_the_container_cannot_hold_are_reported(tmp_path: Path, make: Make) -> None:
    source = with_subtitles(Clip().write(tmp_path / "bare.mkv"), tmp_path / "full.mkv")
    with av.open(str(source)) as input_container, av.open(str(tmp_path / "in.mkv"), "w") as output:
        copies = {
            stream.index: output.add_stream_from_template(stream)
            for stream in input_container.streams
            if stream.type != "subtitle"
        }
        for packet in input_container.demux(
            *(stream for stream in input_container.streams if stream.type in ("video", "audio"))
        ):
            if packet.dts is not None:
                packet.stream = copies[packet.stream.index]
                output.mux(packet)
    report = make(tmp_path / "in.mkv", tmp_path / "out.mp4")
    assert any("1 attached file left out" in note for note in report.notes)


def test_alpha_follows_a_timeline(tmp_path: Path, make: Make, engine: Dimmer) -> None:
    source = Clip(audio=None).write(tmp_path / "in.mp4")
    make(source, tmp_path / "out.mp4", "0:a=1, 0.4s:a=0, 0.5s:a=0; hold", alpha_log=tmp_path / "played.jsonl")
    light = [frame.mean() for frame in see(tmp_path / "out.mp4").frames]
    assert min(light[:10]) > 40  # seconds 0 to 0.36
    assert max(light[10:]) < 3  # 0.4 on
    rows = list(AlphaLog.read_entries(tmp_path / "played.jsonl"))
    assert [row.frame for row in rows] == list(range(20))
    assert [row.coefficients.values for row in rows] == [(1.0, 0.0)] * 10 + [(0.0, 1.0)] * 10
    assert rows[10].generation == rows[9].generation + 1
    make(source, tmp_path / "again.mp4", tmp_path / "played.jsonl")
    assert (tmp_path / "again.mp4").read_bytes() == (tmp_path / "out.mp4").read_bytes()


def test_video_is_enlarged_by_a_super_resolution_network(tmp_path: Path, make: Make, engine: Dimmer) -> None:
    engine.scale = 4
    source = Clip().write(tmp_path / "in.mp4")
    report = make(source, tmp_path / "out.mp4")
    after = see(tmp_path / "out.mp4")
    assert (report.width, report.height) == (256, 192)
    assert after.times == see(source).times
    assert psnr(after.frames[2], see(source).frames[2].repeat(4, 0).repeat(4, 1)) > 28
