"""docs/tune.md and docs/slider.md: the blocks run as printed, with pico checkpoints in place of the reader's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dni_deploy.cli.main import main

pytest.importorskip("torch", reason="the bundles are exported by PyTorch (extra `export`)")
pytest.importorskip("matplotlib", reason="plots need the extra `report`")

ROOT = Path(__file__).parents[2]


def blocks(page: str, language: str) -> list[str]:
    matches = re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.S | re.M)
    assert matches
    return matches


def family(name: str, folder: Path) -> Path:
    """A pico family of two similar members, psnr and gan."""
    from dni_deploy.api.export import export
    from tests.support.pico_architectures import pico_net

    tensors = {key: value.numpy() for key, value in pico_net(name).state_dict().items()}
    random = np.random.default_rng(1)
    near = {
        key: (value + 0.02 * random.standard_normal(value.shape)).astype(value.dtype) if value.dtype.kind == "f" else value
        for key, value in tensors.items()
    }
    near = {key: np.abs(value) if key.endswith("running_var") else value for key, value in near.items()}
    export({"psnr": tensors, "gan": near}, folder / f"{name}.dni")
    return folder / f"{name}.dni"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    family("compact", tmp_path).rename("sr.dni")
    family("dncnn", tmp_path).rename("denoise.dni")
    small = Image.fromarray(np.random.default_rng(2).integers(0, 256, (64, 68, 3), np.uint8))
    small.save("in.png")
    small.resize((4 * 68, 4 * 64)).save("clean.png")
    for name in ("noisy", "photos", "clean"):
        Path(name).mkdir()
        Image.open("clean.png" if name == "clean" else "in.png").save(Path(name) / "one.png")
    return tmp_path


@pytest.mark.parametrize("page", ["tune.md", "slider.md"])
@pytest.mark.slow
def test_documented_blocks_run(page: str, folder: Path) -> None:
    commands = [line.removeprefix("$ ") for console in blocks(page, "console") for line in console.splitlines()]
    assert len(commands) >= 3
    for line in commands:
        if "--remove" not in line and "--ray" not in line:  # the Python block that follows uses the slider; there is no cluster
            program, *arguments = shlex.split(line)
            assert program == "dni-deploy"
            assert main([*arguments, "--quiet"]) == 0, line
    [python] = blocks(page, "python")
    names: dict[str, object] = {}
    exec(compile(python, page, "exec"), names)
    names["session"].close()  # type: ignore[attr-defined]
    if page == "tune.md":
        assert Path("tune.html").exists()
        assert Path("tune.png").exists()
        assert len(Path("psnr.csv").read_text().splitlines()) == 1 + 2 * 21
    else:
        assert names["position"] == pytest.approx(0.5, abs=1e-12)
        assert main(["slider", "sr.dni", "--remove"]) == 0


@pytest.mark.parametrize("page", ["tune.md", "slider.md"])
def test_links_and_images_of_the_page_exist(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if not target.startswith("http")]
    assert targets
    assert not [target for target in targets if not (ROOT / "docs" / target).exists()]
    paths = re.findall(r"`((?:dni_deploy|exporters|engines|benchmarks|tests|docs)/[\w./]+)`", text)
    assert not [path for path in paths if not (ROOT / path).exists()]
