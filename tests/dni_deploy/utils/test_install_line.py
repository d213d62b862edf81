"""The pip line of an extra names what is there: the checkout, the wheel, or the packages."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from dni_deploy.utils import install_line
from dni_deploy.utils.install_line import format_install_line, format_requirement

ROOT = Path(__file__).parents[3]
REQUIREMENTS = [
    "numpy>=1.26",
    'onnxruntime-gpu[cuda,cudnn]>=1.21; extra == "gpu"',
    'dni-deploy[gpu]; extra == "tensorrt"',
    'tensorrt>=10.0; extra == "tensorrt"',
    'spandrel<0.5,>=0.4.1; extra == "spandrel"',
    "vapoursynth>=70; python_version >= '3.12' and extra == 'vapoursynth'",
    'dni_deploy[tensorrt,spandrel]; extra == "both"',
    'dni-deploy[gpu]; extra == "both"',
]


class Installed:
    """A fake distribution."""

    requires = REQUIREMENTS

    def __init__(self, origin: str | None) -> None:
        self.origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self.origin is None else json.dumps({"url": self.origin})


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes it look as if dni-deploy were installed from an address, without its source around."""

    def install(origin: str | None) -> None:
        monkeypatch.setattr(install_line, "_find_checkout", lambda: None)
        monkeypatch.setattr(install_line, "_find_distribution", lambda: Installed(origin))

    return install


def test_a_checkout_is_named() -> None:
    assert format_install_line("video") == f'pip install -e "{ROOT}[video]"'


def test_a_wheel_or_folder_that_is_still_there_is_named(install: Any, tmp_path: Path) -> None:
    wheel = tmp_path / "my wheels" / "dni_deploy-0.1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.touch()
    install(wheel.as_uri())
    assert shlex.split(format_install_line("video")) == ["pip", "install", f"{wheel}[video]"]


@pytest.mark.parametrize("origin", [None, "file:///gone/dni_deploy.whl", "https://example.org/dni_deploy.whl", "file:"])
def test_else_the_packages_are_named(install: Any, origin: str | None, tmp_path: Path) -> None:
    install(origin if origin != "file:" else "nonsense")
    assert format_requirement("spandrel") == '"spandrel<0.5,>=0.4.1"'
    assert format_requirement("tensorrt") == '"onnxruntime-gpu[cuda,cudnn]>=1.21" "tensorrt>=10.0"'
    assert format_requirement("vapoursynth") == '"vapoursynth>=70"'
    assert format_requirement("both").split() == [
        '"onnxruntime-gpu[cuda,cudnn]>=1.21"', '"tensorrt>=10.0"', '"spandrel<0.5,>=0.4.1"',
    ]  # fmt: skip


def test_without_any_origin_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install_line, "_find_checkout", lambda: None)
    monkeypatch.setattr(install_line, "DISTRIBUTION_NAME", "dni-deploy-that-is-not-installed")
    assert format_requirement("video") == '"dni-deploy-that-is-not-installed[video]"'
