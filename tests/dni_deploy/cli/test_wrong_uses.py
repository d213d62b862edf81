"""Wrong uses of the command line: each has its exit code, and says what was probably meant."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dni_deploy.cli import dispatch
from dni_deploy.cli.dispatch import run_command_line
from tests.support import pipe_bundle

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, x.dni, of the members N20 and N60; a picture; files that are none of what they are given for."""
    path = tmp_path_factory.mktemp("wrong uses")
    pipe_bundle.write(path / "x.dni", names=("N20", "N60"))
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(path / "in.png")
    for name in ("a.pth", "b.pth", "net.onnx", "net.engine", "x.zip", "text.txt", "clip.mp4", "my net.ckpt"):
        (path / name).write_bytes(b"something else " * 8)
    (path / "empty").mkdir()
    return path


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(dispatch.signal, "signal", lambda *arguments: None)
    return folder


RUN = "run x.dni in.png -o o.png"
EXPORT_LINE = "dni-deploy export"
WRONG_USES: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    # No such command.
    ("rum x.dni in.png -o o.png", 2, ("did you mean 'run'?",)),
    ("runn x.dni in.png -o o.png", 2, ("did you mean 'run'?",)),
    ("Run x.dni in.png -o o.png", 2, ("did you mean 'run'?",)),
    ("exprot a.pth b.pth -o y.dni", 2, ("did you mean 'export'?",)),
    ("swep x.dni in.png", 2, ("did you mean 'sweep'?",)),
    ("upscale x.dni in.png", 2, ("did you mean 'run'?",)),
    ("convert a.pth b.pth", 2, ("did you mean 'export'?",)),
    ("interpolate x.dni", 2, ("did you mean 'refit'?",)),
    ("info x.dni", 2, ("did you mean 'inspect'?",)),
    ("gui x.dni", 2, ("did you mean 'serve'?",)),
    ("jobs out", 2, ("did you mean 'status'?",)),
    ("status", 2, ("Missing argument OUTPUT",)),
    ("status empty", 3, ("empty holds no job",)),
    ("benchmark x.dni", 2, ("did you mean 'bench'?",)),
    ("recalibrate x.dni", 2, ("did you mean 'build'?",)),
    ("help runn", 2, ("did you mean 'run'?",)),
    ("abacus", 2, ("no command 'abacus'", "dni-deploy -h")),
    ("in.png -o o.png", 2, ("A command comes first", "dni-deploy run BUNDLE in.png -o OUTPUT")),
    ("x.dni in.png", 2, ("A command comes first", "dni-deploy run x.dni IMAGE", "dni-deploy serve x.dni")),
    ("a.pth b.pth", 2, ("A command comes first", "dni-deploy export A=a.pth")),
    ("clip.mp4 -o o.mp4", 2, ("A command comes first", "dni-deploy video BUNDLE clip.mp4")),
    ("-i in.png -o o.png", 2, ("'-i'", "dni-deploy run BUNDLE IMAGE -o OUTPUT")),
    ("--alpha 0.5 run x.dni in.png -o o.png", 2, ("'--alpha' before a command",)),
    # Options of other programs.
    ("run -i in.png -o o.png --alpha 0.5", 2, ("the input has no option: dni-deploy run BUNDLE INPUTS...",)),
    ("run x.dni --input in.png -o o.png --alpha 0.5", 2, ("the input has no option",)),
    (f"{RUN} --alpha 0.5 -s 4", 2, ("scale",)),
    (f"{RUN} --alpha 0.5 -n 3", 2, ("--alpha", "first argument")),
    (f"{RUN} -n realesr-animevideov3 --alpha 0.5", 2, ("the network is the bundle, the first argument",)),
    (f"{RUN} -m models/ --alpha 0.5", 2, ("dni-deploy run BUNDLE INPUTS...",)),
    (f"{RUN} -dn 0.5", 2, ("'-dn'", "--alpha")),
    (f"{RUN} --ratio 0.5", 2, ("--alpha",)),
    (f"{RUN} -g 0 --alpha 0.5", 2, ("--device", "--engine onnxruntime")),
    (f"{RUN} --gpu-id 0 --alpha 0.5", 2, ("--device",)),
    (f"{RUN} -t 256 --alpha 0.5", 2, ("--tile PIXELS",)),
    (f"{RUN} --tile_pad 10 --alpha 0.5", 2, ("--overlap",)),
    (f"{RUN} -x --alpha 0.5", 2, ("test-time augmentation",)),
    (f"{RUN} -j 4:4:4 --alpha 0.5", 2, ("--threads",)),
    (f"{RUN} -y --alpha 0.5", 2, ("--force",)),
    (f"{RUN} --half --alpha 0.5", 2, ("--precision fp16",)),
    (f"{RUN} --cpu --alpha 0.5", 2, ("--engine", "onnxruntime")),
    (f"{RUN} --version", 2, ("dni-deploy --version",)),
    (f"{RUN} -crf 18 --alpha 0.5", 2, ("no option '-crf'",)),
    ("video x.dni clip.mp4 -o o.mp4 --alpha 0.5 -crf 18", 2, ("write --crf",)),
    ("video x.dni clip.mp4 -o o.mp4 --alpha 0.5 -c:v libx265", 2, ("--codec",)),
    ("video x.dni clip.mp4 -o o.mp4 --alpha 0.5 -ss 5", 2, ("--from TIME",)),
    ("video x.dni clip.mp4 -o o.mp4 --alpha 0.5 -pix_fmt yuv420p", 2, ("--pix-fmt",)),
    ("export --model a.pth -o y.dni", 2, ("checkpoints have no option: dni-deploy export NAME=PATH...",)),
    ("sweep x.dni in.png -o o.png --out p.png", 2, ("the output is -o",)),
    (f"{RUN} --alpah 0.5", 2, ("did you mean '--alpha'?",)),
    (f"{RUN} --alpha 0.5 --presicion fp16", 2, ("did you mean '--precision'?",)),
    (f"{RUN} --alpha 0.5 --nonsense", 2, ("no option '--nonsense'", "dni-deploy run -h")),
    # What is missing, and what is too much.
    ("run x.dni in.png --alpha 0.5", 2, ("Missing option -o", "dni-deploy run BUNDLE INPUTS... -o OUTPUT")),
    ("run x.dni", 2, ("Missing argument INPUTS", "dni-deploy run BUNDLE INPUTS... -o OUTPUT")),
    ("run", 2, ("Missing argument BUNDLE", "dni-deploy run BUNDLE INPUTS... -o OUTPUT")),
    ("export a.pth b.pth", 2, ("Missing option -o", "*.dni")),
    ("completion", 2, ("Missing argument",)),
    (f"{RUN} --alpha", 2, ("'--alpha' requires an argument", "dni-deploy run -h")),
    (RUN, 2, ("Which alpha?", "--alpha")),
    ("sweep x.dni in.png in.png -o o.png", 2, ("unexpected extra argument", "dni-deploy sweep BUNDLE IMAGE -o OUTPUT")),
    ("inspect x.dni x.dni", 2, ("unexpected extra argument", "dni-deploy inspect BUNDLE")),
    ("tune x.dni in.png", 2, ("--reference", "--noise auto")),
    ("slider x.dni", 2, ("at least one image",)),
    ("filter x.dni --alpha 0.5 --format rgb24", 2, ("--size",)),
    # What is no bundle.
    ("run a.pth in.png -o o.png", 3, (f"{EXPORT_LINE} a=a.pth b=OTHER.pth -o NAME.dni",)),
    ("run a.pth in.png -o o.png --alpha 0.5", 3, (EXPORT_LINE,)),
    ("run a.pth in.png", 3, (EXPORT_LINE,)),
    ("run 'my net.ckpt' in.png", 3, (f"{EXPORT_LINE} a='my net.ckpt'",)),
    ("serve net.onnx in.png", 3, (f"{EXPORT_LINE} a=net.onnx b=OTHER.onnx",)),
    ("sweep none.safetensors in.png -o o.png", 3, ("does not exist", EXPORT_LINE)),
    ("refit a.pth --alpha 0.5 -o o.onnx", 3, (EXPORT_LINE,)),
    ("build net.engine", 3, ("built engine", "the bundle")),
    ("bench x.zip", 3, ("unpack it",)),
    ("inspect x.dni/manifest.json", 3, ("give its folder, x.dni",)),
    ("run in.png x.dni -o o.png --alpha 0.5", 3, ("the bundle comes first",)),
    ("run text.txt in.png -o o.png --alpha 0.5", 3, ("a bundle is the folder that `dni-deploy export` writes",)),
    ("run empty in.png -o o.png --alpha 0.5", 3, ("it is not a bundle",)),
    ("inspect x.dn", 3, ("does not exist", "did you mean 'x.dni'?")),
    ("inspect https://example.org/x.dni", 3, ("nothing is downloaded",)),
    # Alpha.
    (f"{RUN} --alpha 0,5", 2, ("for one number write 0.5",)),
    (f"{RUN} --alpha N2=0.5", 2, ("did you mean 'N20'?",)),
    (f"{RUN} --alpha gan=0.5", 2, ("the members are 'N20', 'N60'",)),
    (f"{RUN} --alpha N20", 2, ("write N20=1",)),
    (f"{RUN} --alpha abc", 2, ("'abc' in alpha is not a number",)),
    (f"{RUN} --alpha 2", 2, ("outside 0 to 1", "--extrapolate")),
    (f"{RUN} --alpha 0.5,0.6", 2, ("must sum to 1",)),
    (f"{RUN} --alpha '0.5;0.5'", 2, ("separated by commas",)),
    (f"{RUN} --alpha N20:0.5", 2, ("a name has an equals sign",)),
    (f"{RUN} --alpha '0:N20=0, 2s:N20=1'", 2, ("over time", "video")),
    (f"{RUN} --alpha 0.5 --slider 0.5", 2, ("give one of them",)),
    (f"{RUN} --slider 0,5", 2, ("0 to 1", "0.5")),
    (f"{RUN} --slider 0.5", 2, ("holds no slider", "dni-deploy slider x.dni")),
    # Values.
    (f"{RUN} --alpha 0.5 --engine cuda", 2, ("auto, tensorrt, tensorrt-rtx, onnxruntime-gpu, onnxruntime", "did you mean 'auto'?")),
    (f"{RUN} --alpha 0.5 --engine cpu", 2, ("did you mean 'onnxruntime'?",)),
    (f"{RUN} --alpha 0.5 --engine onnxruntim", 2, ("did you mean 'onnxruntime'?",)),
    (f"{RUN} --alpha 0.5 --engine onnxruntime --precision fp16", 2, ("has no use for precision fp16",)),
    (f"{RUN} --alpha 0.5 --engine onnxruntime --device 3", 2, ("has no use for device 3",)),
    (f"{RUN} --alpha 0.5 --precision fp8", 2, ("'fp16'",)),
    (f"{RUN} --alpha 0.5 --tile 8", 2, ("'8' is not a whole number, 16 to 65536",)),
    (f"{RUN} --alpha 0.5 --tile many", 2, ("'many' is not a whole number, 16 to 65536",)),
    ("serve x.dni --port 70000", 2, ("0 to 65535",)),
    ("serve x.dni --slew 0", 2, ("above 0",)),
    ("completion tcsh", 2, ("'bash', 'zsh', 'fish', 'powershell'",)),
    ("bench x.dni --shape 3x4", 2, ("1x3x256x256",)),
    # Inputs and outputs.
    ("run x.dni none.png -o o.png --alpha 0.5", 3, ("none.png does not exist",)),
    ("run x.dni a.pth -o o.png --alpha 0.5", 3, ("a.pth",)),
    ("run x.dni in.png -o in.png --alpha 0.5", 2, ("in.png",)),
    (f"{RUN[:-4]}.doc --alpha 0.5", 2, (".png",)),
    ("check in.png a.pth", 3, ("a PNG image",)),
    ("check x.dni a.pth", 2, ("bundle already",)),
    ("export a=a.pth a=b.pth -o y.dni", 2, ("Two members are named 'a'", "NAME=PATH")),
    ("export x.dni -o y.dni", 2, ("bundle already",)),
    ("refit x.dni --alpha 0.5 -o o.pth", 2, (".safetensors",)),
    ("video x.dni in.png -o o.mp4 --alpha 0.5", 3, ("dni-deploy run",)),
)  # fmt: skip


@pytest.mark.parametrize(("line", "code", "hints"), WRONG_USES, ids=[line for line, _, _ in WRONG_USES])
def test_a_wrong_use_has_its_exit_code_and_a_hint(
    line: str, code: int, hints: tuple[str, ...], here: Path, capsys: Capture
) -> None:
    if line.startswith("video") and "in.png" in line:
        pytest.importorskip("av", reason="needs the extra `video`")
    if line.startswith(("tune", "slider")):
        pytest.importorskip("skimage", reason="needs the extra `tune`")
    if line.startswith("serve"):
        pytest.importorskip("starlette", reason="needs the extra `serve`")
    before = sorted(here.iterdir())
    assert run_command_line(shlex.split(line)) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dni-deploy: error: ")
    assert err.count("\n") == 1
    assert "bug in dni-deploy" not in err
    for hint in hints:
        assert hint in err, err
    assert sorted(here.iterdir()) == before


NOTED_USES: tuple[tuple[str, str], ...] = (
    (f"{RUN} --alpha 0,1", "--alpha 0,1 was read as two shares, 0 and 1; for one number write 0.1"),
    (f"{RUN} --alpha 0.5 --precision fp16", "precision fp16 changes nothing here"),
    (f"{RUN} --alpha 0.5 --device 3", "device 3 changes nothing here"),
)


@pytest.mark.parametrize(("line", "note"), NOTED_USES, ids=[line for line, _ in NOTED_USES])
def test_what_may_be_meant_otherwise_is_noted(line: str, note: str, here: Path, capsys: Capture) -> None:
    assert run_command_line([*shlex.split(line), "--force"]) == 0
    assert note in "".join(capsys.readouterr())
    assert run_command_line([*shlex.split(line), "--force", "--json"]) == 0
    out, err = capsys.readouterr()
    report: dict[str, Any] = json.loads(out)
    assert err == ""
    assert note in (report["notes"] if "comma" in note or "shares" in note else [report["engine_reason"][-len(note) :]])


RIGHT_USES = ("35%", "n20=0.35", "N60=65%", "0.35", "0.35,0.65", "n20=0.35,n60=0.65")


@pytest.mark.parametrize("alpha", RIGHT_USES)
def test_one_alpha_may_be_written_in_many_ways(alpha: str, here: Path, capsys: Capture) -> None:
    assert run_command_line(["refit", "x.dni", "--alpha", alpha, "-o", "o.safetensors", "--force"]) == 0
    assert "N20=0.35, N60=0.65" in capsys.readouterr().out
