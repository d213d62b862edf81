"""run through the command line: what is printed where, each failure when it happens, streams, and a run that is stopped."""

from __future__ import annotations

import io
import json
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dni_deploy.api import run_images
from dni_deploy.cli.main import main
from tests.support.frame_session import Dimmer, run_over

Capture = pytest.CaptureFixture[str]


def call(line: str) -> int:
    """Runs a command line; SIGTERM ends it as it would end the interpreter."""
    try:
        return main(line.split())
    except SystemExit as stopped:
        return int(stopped.code or 0)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """in/ with two images, one that is none, and a text; the bundle's member a keeps an image as it is."""
    run_over(monkeypatch, Dimmer((1.0, 0.0)))
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for seed, name in enumerate(("a.png", "c.png")):
        pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(Path("in", name))
    Path("in/b.png").write_bytes(b"<html>")
    Path("in/notes.txt").touch()
    return tmp_path


def test_a_failure_is_told_and_the_report_is_printed(here: Path, capsys: Capture) -> None:
    assert call("run x.dni in -o out --alpha 1") == 8
    out, err = capsys.readouterr()
    assert "failed   1 of 3 images" in out
    assert "skipped  not images: 1 (notes.txt)" in out
    assert "out/a.png" in out
    assert "out/c.png" in out
    lines = err.splitlines()
    assert lines[0].startswith("dni-deploy: failed: in/b.png is a web page")
    assert lines[1].startswith("dni-deploy: error: 2 of 3 images were processed and are in out, 1 failed.")


def test_json_has_the_whole_report_beside_the_exit_code(here: Path, capsys: Capture) -> None:
    assert call("run x.dni in -o out --alpha 1 --json") == 8
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert [row["source"] for row in report["images"]] == ["in/a.png", "in/c.png"]
    assert [failure["source"] for failure in report["failed"]] == ["in/b.png"]
    assert report["skipped"] == {"not_image": ["in/notes.txt"]}
    events = [json.loads(line) for line in err.splitlines()]
    assert events[0]["failed"] == report["failed"][0]
    assert events[1]["error"]["exit_code"] == 8


def test_a_long_list_of_what_was_left_out_is_cut(here: Path, capsys: Capture) -> None:
    for number in range(7):
        Path(f"in/{number}.txt").touch()
    Path("in/b.png").unlink()
    assert call("run x.dni in -o out --alpha 1") == 0
    assert "not images: 8 (0.txt, 1.txt, 2.txt, 3.txt, 4.txt, ...)" in capsys.readouterr().out
    assert call("run x.dni in -o out --alpha 1 --skip-existing") == 0
    out = capsys.readouterr().out
    assert "nothing to do" in out
    assert "outputs exist: 2 (a.png, c.png)" in out


def test_options_of_files_reach_the_library(here: Path) -> None:
    line = "run x.dni in/a.png -o out/ --alpha 1 -f JPG --quality 80 --suffix _x2 --size 16x12"
    assert call(line) == 0
    with Image.open("out/a_x2.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (16, 12))
    assert call("run x.dni in/a.png -o out/ --alpha 1 --ext webp --outscale 0.5") == 0
    with Image.open("out/a.webp") as image:
        assert (image.format, image.size) == ("WEBP", (4, 3))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("in/a.png -o v1.0", "write v1.0/"),
        ("in/a.png -o out/ --size 4", "is not WIDTHxHEIGHT"),
        ("in/a.png -o out/ --size 4x4 --outscale 2", "give one of them"),
        ("in/a.png -o out.png --quality 80", "written without loss"),
        ("in/a.png -o out.png -r", "--recursive is for folders"),
        ("in/a.png -o out/ --force --skip-existing", "give one of them"),
        ("in -o out/ --resume --skip-existing", "give one of them"),
        ("in -o out/ --shard 0/4", "the first one is 1"),
        ("in -o out/ --shard join", "nothing to join"),
        ("in -o out/ --ray nonsense", "none of auto, local, HOST:PORT"),
        ("in -o out/ --ray auto --shard 1/2", "give one of them"),
        ("in -o out/ --ray auto --gpus 1.5", "a part of one GPU"),
        ("in -o out/ --workers 3", "give --ray"),
        ("in -o out/ --max-failures some", "neither a number, such as 20, nor a part"),
        ("in/a.png -o out.png --resume", "a job is of a folder"),
        ("in/a.png", "-o"),
        ("in -o -", "name a folder for several"),
        ("in/a.png in/c.png -o -", "name a folder for several"),
        ("in/notes.txt -o -", "give --format"),
        ("in/a.png -o - --json", "--json prints on stdout"),
    ],
)
def test_wrong_uses(here: Path, capsys: Capture, options: str, words: str) -> None:
    assert call(f"run x.dni --alpha 1 {options}") == 2
    out, err = capsys.readouterr()
    assert words in err
    assert out == ""
    assert sorted(path.name for path in here.iterdir()) == ["in"]


def test_an_image_through_pipes(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    stdin = SimpleNamespace(buffer=io.BytesIO(Path("in/a.png").read_bytes()), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", stdin)
    assert call("run x.dni - -o - --format bmp --alpha 1") == 0
    out, err = capsysbinary.readouterr()
    with Image.open(io.BytesIO(out)) as image, Image.open("in/a.png") as source:
        assert image.format == "BMP"
        assert np.array_equal(np.array(image), np.array(source))
    assert err == b""
    assert call("run x.dni in/a.png -o - --alpha 1") == 0  # the format of the input
    assert capsysbinary.readouterr().out.startswith(b"\x89PNG")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_stopped_run_says_how_much_is_done(
    here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int, as_json: bool
) -> None:
    for seed in range(30):
        Image.new("RGB", (40, 30), (seed, 0, 0)).save(f"in/{seed:02}.png")
    write = run_images.write_bytes_atomically

    def write_and_stop(path: str, data: bytes, *, force: bool) -> None:
        write(path, data, force=force)
        if path.endswith("02.png"):
            signal.raise_signal(number)

    monkeypatch.setattr(run_images, "write_bytes_atomically", write_and_stop)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert call(f"run x.dni in -o out --alpha 1 {'--json' if as_json else ''}") == code
    finally:
        signal.signal(signal.SIGTERM, before)
    count = len(list(Path("out").glob("[!.]*")))
    assert 1 <= count < 32
    err = capsys.readouterr().err.splitlines()
    if as_json:
        assert json.loads(err[-2 if number == signal.SIGINT else -1])["stopped"] == {"done": count, "total": 33}
    else:
        assert (
            f"dni-deploy: {count} of 33 images are done and whole; give the same command with --resume for the others." in err
        )


def test_options_of_jobs_reach_the_library(here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_images, "MAX_THREADS", 1)
    assert call("run x.dni in -o out --alpha 1 --max-failures 0") == 8
    assert "more than --max-failures 0 allows" in capsys.readouterr().err
    broken = Path("in/b.png").read_bytes()
    Path("in/b.png").write_bytes(Path("in/a.png").read_bytes())
    assert call("run x.dni in -o out --alpha 1 --shard 2/2 -q") == 0
    assert call("run x.dni in -o out --alpha 1 --shard join") == 2
    assert "of 2 shards, run 1 again" in capsys.readouterr().err
    Path("in/b.png").write_bytes(broken)
    assert call("run x.dni in -o out --alpha 0.5 --resume") == 2
    assert "differs in: alpha" in capsys.readouterr().err
    assert call("run x.dni in -o out --alpha 1 --resume") == 8
    assert call("status out") == 0
    assert "failed     1" in capsys.readouterr().out
    Path("in/b.png").write_bytes(Path("in/a.png").read_bytes())
    assert call("run x.dni in -o out --alpha 1 --resume") == 0
    assert "done before: 2" in capsys.readouterr().out
    assert call("run x.dni in -o out --alpha 1 --shard join --json") == 0
    assert len(json.loads(capsys.readouterr().out)["skipped"]["done"]) == 3


def test_a_long_table_of_images_is_cut(here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dni_deploy.cli.run.MAX_LISTED_IMAGES", 1)
    Path("in/b.png").unlink()
    assert call("run x.dni in -o out --alpha 1") == 0
    out = capsys.readouterr().out
    assert "out/a.png" in out
    assert "out/c.png" not in out
    assert "... and 1 more; --json lists all of them." in out
