"""`triton`: the function and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import dni_deploy as dni
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.cli.main import main
from dni_deploy.errors import MismatchError, UsageError
from tests.support import pico_bundle, served_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return served_bundle.write(tmp_path_factory.mktemp("bundle") / "photo sr.dni", members=3)


def test_the_report_says_what_a_client_has_to_know(bundle: Bundle, tmp_path: Path) -> None:
    report = dni.triton(bundle, tmp_path / "models", name="sr", options=dni.ModelOptions(threads=2))
    assert (report.name, report.version, report.members) == ("sr", 1, ("same", "half", "none"))
    assert report.inputs == {
        "image": "UINT8 [-1,-1,3]",
        "alpha": "FP32 [-1]",
        "rules": "UINT8 [-1] optional",
        "control_gain": "FP32 [1] optional",
    }
    assert report.outputs == {"output": "UINT8 [-1,-1,3]", "alpha": "FP32 [-1]"}
    paths = [path for path in (tmp_path / "models").rglob("*") if path.is_file()]
    assert (report.files, report.size) == (len(paths), sum(path.stat().st_size for path in paths))
    again = dni.triton(bundle, tmp_path / "models", name="sr", force=True)
    assert (again.version, again.older_versions, again.files) == (2, (1,), report.files)


def test_the_name_is_the_bundles(tmp_path: Path) -> None:
    path = served_bundle.write(tmp_path / "x4.dni").path
    assert dni.triton(path, tmp_path / "models").name == "x4"


def test_a_bundles_name_that_a_model_cannot_have_needs_another(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'photo sr' is no name for a model.*--name"):
        dni.triton(bundle, tmp_path)


def test_a_network_without_images_is_served_raw_alone(tmp_path: Path) -> None:
    bundle = pico_bundle.write(tmp_path / "pico.dni")
    with pytest.raises(MismatchError, match="--raw serves its tensors as they are"):
        dni.triton(bundle, tmp_path / "models")
    assert not (tmp_path / "models").exists()
    report = dni.triton(bundle, tmp_path / "models", options=dni.ModelOptions(raw=True))
    assert (report.inputs["input"], report.outputs["output"]) == ("FP32 [-1,1,-1,-1]", "FP32 [-1,2,-1,-1]")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, models = served_bundle.write(tmp_path / "sr.dni").path, tmp_path / "models"
    options = ["--device", "cpu", "--instances", "2", "--max-queue", "9", "--threads", "1", "--control", "gain=1/2"]
    assert main(["triton", str(bundle), "-o", str(models), *options, "--extrapolate"]) == 0
    text = capsys.readouterr().out
    assert "model sr, version 1" in text
    assert f"tritonserver --model-repository={models} --model-control-mode=explicit --load-model=sr" in text
    config = (models / "sr/config.pbtxt").read_text()
    for line in ("kind: KIND_CPU count: 2", "max_queue_size: 9", '"gain=1/2"', '"threads" value { string_value: "1" }'):
        assert line in config
    assert main(["triton", str(bundle), "-o", str(models)]) == 2
    assert "--force adds the bundle as version 2" in capsys.readouterr().err
    assert main(["triton", str(bundle), "-o", str(models), "--force", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["version"], printed["older_versions"]) == (2, [1])


def test_options_that_exclude_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = served_bundle.write(tmp_path / "sr.dni").path
    assert main(["triton", str(bundle), "-o", str(tmp_path / "m"), "--device", "cpu", "--engine", "tensorrt"]) == 2
    assert "The engine tensorrt does not run on a CPU" in capsys.readouterr().err
