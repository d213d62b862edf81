"""bench --video: every stage is timed, and the reported times add up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.cli.dispatch import group
from dni_deploy.cli.output import CommandOutput
from dni_deploy.errors import InputError, UsageError
from dni_deploy.latency import video
from dni_deploy.latency.video import bench_video
from engines.interface import FRAMES_IN_FLIGHT
from tests.engines.conftest import write
from tests.engines.trt.conftest import bn
from tests.support.video_clips import Clip


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write(bn(), tmp_path / "bn.dni", members=2)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "MEAN_EVENT_INTERVAL_S", 0.01)


def test_bench_video_times_every_stage(tmp_path: Path, bundle: Bundle) -> None:
    clip = Clip(audio=None).write(tmp_path / "in.mp4")
    report = bench_video(bundle.path, clip, frames=12, threads=1)
    stages = {stage.name: stage for stage in report.stages}
    assert report.frames == 12
    assert set(stages) == {
        "decode",
        "colors, in decode",
        "network alone",
        "colors, in encode",
        "blend and refit",
        "frame, changed",
        "frame, steady",
        "encode",
        "end to end",
        "slider to frame",
    }
    for stage in stages.values():
        assert 0 < stage.p50 <= stage.p95 <= stage.p99
    assert stages["end to end"].p50 > stages["frame, changed"].p50 > stages["blend and refit"].p50
    assert stages["frame, steady"].p50 > stages["network alone"].p50 > 0
    assert report.changed_over_steady > 0
    assert report.stream_fps > 0
    assert 0.5 < report.frames_in_flight <= FRAMES_IN_FLIGHT + 0.01  # a place is free a moment before the callback has run
    json.dumps(report.to_json(), allow_nan=False)


def test_the_command(tmp_path: Path, bundle: Bundle) -> None:
    clip = Clip(audio=None).write(tmp_path / "in.mp4")
    arguments = ["bench", str(bundle.path), "--video", str(clip), "--repeats", "6", "--threads", "1"]
    plain = CliRunner().invoke(group, arguments, obj=CommandOutput())
    assert plain.exit_code == 0, plain.output
    assert "slider to frame" in plain.output
    body = json.loads(CliRunner().invoke(group, [*arguments, "--json"], obj=CommandOutput()).stdout)
    assert body["frames"] == 6
    assert len(body["stages"]) == 10
    refused = CliRunner().invoke(group, [*arguments, "--shape", "1x3x8x8"], obj=CommandOutput())
    assert isinstance(refused.exception, UsageError)


def test_too_few_frames_are_refused(tmp_path: Path, bundle: Bundle) -> None:
    with pytest.raises(InputError, match="fewer than 5 frames"):
        bench_video(bundle.path, Clip(frames=3, audio=None).write(tmp_path / "in.mp4"))
    with pytest.raises(UsageError, match="at least 2 frames"):
        bench_video(bundle.path, tmp_path / "in.mp4", frames=1)
