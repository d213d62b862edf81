"""`dni-deploy video`: its arguments, several videos, and pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from dni_deploy.cli.dispatch import run_command_line
from dni_deploy.cli.video import command, parse_encoder_options
from dni_deploy.errors import UsageError
from tests.support import pipe_bundle
from tests.support.video_clips import Clip, see


def test_encoder_options_are_parsed() -> None:
    context = click.Context(command)
    parsed = parse_encoder_options(context, command.params[0], ("x265-params=lossless=1", "b=8M", "b=9M"))
    assert parsed == {"x265-params": "lossless=1", "b": "9M"}


@pytest.mark.parametrize("text", ["tune", "=film", "tune="])
def test_an_encoder_option_without_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not KEY=VALUE, such as tune=film"):
        parse_encoder_options(click.Context(command), command.params[0], (text,))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("onnxruntime", reason="the network runs on ONNX Runtime (extra `cpu`)")
    return os.fspath(pipe_bundle.write(tmp_path_factory.mktemp("bundle") / "x.dni", 1).path)


def test_a_video_goes_through_pipes(bundle: str, tmp_path: Path) -> None:
    """From a container that is read from a pipe into one; stdout has nothing but the video."""
    source = Clip(frames=4).write(tmp_path / "in.mkv")
    arguments = ["video", bundle, "-", "-o", "-", "--alpha", "0.5", "--engine", "onnxruntime", "--threads", "1", "-q"]
    done = subprocess.run(
        [sys.executable, "-m", "dni_deploy", *arguments], input=source.read_bytes(), capture_output=True, timeout=60, check=True
    )
    (tmp_path / "out.mkv").write_bytes(done.stdout)
    after = see(tmp_path / "out.mkv")
    assert len(after.frames) == 4
    assert len(after.others) == 1
    assert done.stderr == b""


def test_several_videos_are_reported_one_by_one(bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = [os.fspath(Clip(frames=2, audio=None).write(tmp_path / name)) for name in ("a.mp4", "b.mkv")]
    (tmp_path / "out").mkdir()
    common = ["--alpha", "0.5", "--engine", "onnxruntime", "-o", os.fspath(tmp_path / "out")]
    assert run_command_line(["video", bundle, *sources, *common, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [report["frames"] for report in result["videos"]] == [2, 2]
    assert run_command_line(["video", bundle, sources[0], *common, "--force"]) == 0
    assert f"wrote   {tmp_path / 'out' / 'a.mp4'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in.mp4", "-o", "-", "--json"], "--json prints on stdout, where -o - writes the video"),
        (["a.mp4", "b.mp4", "-o", "out", "--alpha-log", "log.jsonl"], "--alpha-log is the log of one video"),
        (["in.mp4", "-o", "-", "--ray", "auto"], "no other machine sees what is piped here"),
        (["in.mp4", "-o", "out.mp4", "--ray", "auto", "--shard", "1/2"], "give one of them"),
        (["a.mp4", "b.mp4", "-o", "out.mp4"], "Several videos need a folder to go to"),
        (["in.mp4", "-o", "out.mp4", "--encoder-option", "tune"], "is not KEY=VALUE"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command_line(["video", "x.dni", *arguments, "--alpha", "0.5"]) == 2
    assert message in capsys.readouterr().err
