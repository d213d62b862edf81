"""Each command through the command line, on a pico family: its JSON, its text, and the exit code of each refusal."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from dni_deploy.cli.main import main

pytest.importorskip("torch", reason="the bundle is exported by PyTorch (extra `export`)")
Capture = pytest.CaptureFixture[str]


def checkpoints(folder: Path) -> None:
    """Writes psnr.safetensors, gan.safetensors (similar), other.safetensors (another width) and in.png."""
    from tests.support.pico_architectures import pico_net

    tensors = {key: value.numpy() for key, value in pico_net("compact").state_dict().items()}
    random = np.random.default_rng(1)
    near = {key: (value + 0.02 * random.standard_normal(value.shape)).astype(np.float32) for key, value in tensors.items()}
    save_file(tensors, folder / "psnr.safetensors")
    save_file(near, folder / "gan.safetensors")
    save_file({key: value[:1].copy() for key, value in tensors.items()}, folder / "other.safetensors")
    Image.fromarray(random.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / "in.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verbs")
    checkpoints(path)
    assert (
        main(["export", f"psnr={path / 'psnr.safetensors'}", f"gan={path / 'gan.safetensors'}", "-o", str(path / "sr.dni")])
        == 0
    )
    return path


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


COMMANDS = {
    "export": "export psnr.safetensors gan.safetensors -o {new}.dni",
    "inspect": "inspect sr.dni",
    "check": "check psnr.safetensors gan.safetensors",
    "build": "build sr.dni --force",
    "refit": "refit sr.dni --alpha 0.25 -o {new}.onnx",
    "run": "run sr.dni in.png -o {new}.png --alpha psnr=0.25,gan=0.75",
    "sweep": "sweep sr.dni in.png -o {new}.png --steps 3 --html {new}.html",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_prints_json(command: str, here: Path, capsys: Capture) -> None:
    assert main([*COMMANDS[command].format(new=f"json-{command}").split(), "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert (report["schema"], report["command"]) == (2, command)
    assert err == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_prints_text(command: str, here: Path, capsys: Capture) -> None:
    assert main(COMMANDS[command].format(new=f"words-{command}").split()) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) >= 3
    assert err == ""
    assert "\x1b" not in out


@pytest.mark.parametrize("command", ["refit", "run"])
def test_alpha_is_reported_by_member_name(command: str, here: Path, capsys: Capture) -> None:
    main(COMMANDS[command].format(new=f"named-{command}").split())
    assert "psnr=0.25, gan=0.75" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["export", "refit", "run", "sweep"])
def test_an_existing_output_is_kept(command: str, here: Path, capsys: Capture) -> None:
    args = COMMANDS[command].format(new=f"twice-{command}").split()
    assert main(args) == 0
    before = {path: path.read_bytes() for path in here.rglob(f"twice-{command}*/*") if path.is_file()}
    before |= {path: path.read_bytes() for path in here.glob(f"twice-{command}*") if path.is_file()}
    capsys.readouterr()
    assert main(args) == 2
    assert "--force" in capsys.readouterr().err
    assert all(path.read_bytes() == data for path, data in before.items())
    assert main([*args, "--force"]) == 0


class Bomb:
    """An object that runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("boom",)


BAD = [
    ("run sr.dni in.png -o no.png --alpha nan", 2),
    ("run sr.dni in.png -o no.png --alpha 1.5", 2),
    ("run sr.dni in.png -o no.png --alpha -0.5", 2),
    ("run sr.dni in.png -o no.png --alpha 0.2,0.3,0.5", 2),
    ("run sr.dni in.png -o no.png --alpha psnr=1.5", 2),
    ("run sr.dni in.png -o no.png --alpha who=1", 2),
    ("run sr.dni in.png -o no.doc --alpha 1", 2),
    ("sweep sr.dni in.png -o no.png --plot no.pdf", 2),
    ("refit sr.dni --alpha 1 -o no.pth", 2),
    ("refit sr.dni --alpha 1 -o no.onnx --precision fp16", 2),
    ("refit sr.dni --alpha 1 -o no.plan", 7),
    ("refit sr.dni --alpha 1 -o no.engine", 7),
    ("run sr.dni in.png -o no.png --alpha 1 --engine tensorrt", 7),
    ("build sr.dni --engine tensorrt-nonsense", 2),
    ("build sr.dni --engine onnxruntime-rebuild", 2),
    ("build sr.dni --engine onnxruntime --precision fp16", 2),
    ("build sr.dni --engine onnxruntime --strip --opt 1x3x8x8", 2),
    ("export psnr.safetensors -o no.dni", 2),
    ("export psnr.safetensors gan.safetensors -o no.dni --arch nonsense", 2),
    ("inspect none.dni", 3),
    ("run sr.dni none.png -o no.png --alpha 1", 3),
    ("run sr.dni psnr.safetensors -o no.png --alpha 1", 3),
    ("run changed.dni in.png -o no.png --alpha 1", 3),
    ("check none.pth psnr.safetensors", 3),
    ("export empty.pth psnr.safetensors -o no.dni", 3),
    ("export page.pth psnr.safetensors -o no.dni", 3),
    ("export other.safetensors psnr.safetensors -o no.dni", 4),
    ("export psnr.safetensors gan.safetensors -o no.dni --arch dncnn", 4),
    ("export bomb.pth psnr.safetensors -o no.dni", 5),
]


@pytest.mark.parametrize(("line", "code"), BAD, ids=[line for line, _ in BAD])
def test_refusals_have_their_exit_codes(line: str, code: int, here: Path, capsys: Capture) -> None:
    (here / "empty.pth").write_bytes(b"")
    (here / "page.pth").write_bytes(b"<!DOCTYPE html><html>Sign in</html>")
    (here / "bomb.pth").write_bytes(pickle.dumps(Bomb(), 2))
    if not (here / "changed.dni").exists():
        assert main(["export", "psnr.safetensors", "gan.safetensors", "-o", "changed.dni", "-q"]) == 0
        weights = next((here / "changed.dni").glob("gan-*"))
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        capsys.readouterr()
    assert main(line.split()) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dni-deploy: error: ")
    assert err.count("\n") <= 12
    assert "Traceback" not in err
    assert not list(here.glob("no.*"))
    assert not [path for path in here.iterdir() if "tmp" in path.name or path.name.startswith(".")]
