"""No input from outside raises anything but a DniError, hangs or fills the memory."""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import pytest

from dni_deploy.errors import InputError
from tests.campaign import fuzz
from tests.campaign.fuzz import Target, iterate_inputs, list_corpus, make_targets, run_target, try_input

INPUTS = 100
TARGETS = (
    *(
        "zip",
        "pickle",
        "legacy",
        "safetensors",
        "archive",
        "shards",
        "onnx",
        "ncnn",
        "manifest",
        "sealed-manifest",
        "sealed-graph",
    ),
    *(
        "sealed-member",
        "alpha",
        "shares",
        "rule",
        "control",
        "osc-map",
        "timeline",
        "plane-path",
        "csv",
        "log",
        "preset",
        "plane",
    ),
    *(
        "png-rgb",
        "png-p",
        "png-rgba",
        "jpeg-rgb",
        "webp-rgb",
        "bmp-rgb",
        "tiff-rgb",
        "gif-p",
        "mask",
        "y4m",
        "osc",
        "http",
        "midi",
    ),
    *("lines", "page"),
)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    return make_targets(tmp_path_factory.mktemp("fuzz"))


def test_every_target_is_tried(targets: dict[str, Target]) -> None:
    assert set(TARGETS) == set(targets)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_inputs_are_refused_in_one_sentence(targets: dict[str, Target], name: str) -> None:
    tally, bad = run_target(name, targets[name], seed=1, inputs=INPUTS)
    assert not bad
    assert sum(tally.values()) == INPUTS


@pytest.mark.parametrize(("name", "path"), list_corpus(), ids=lambda value: getattr(value, "name", value))
def test_what_was_bad_once_is_refused(targets: dict[str, Target], name: str, path: Path) -> None:
    assert try_input(targets[name], path.read_bytes())[1] == ""


def test_one_seed_gives_the_same_inputs(targets: dict[str, Target]) -> None:
    first, again, other = (list(itertools.islice(iterate_inputs("zip", targets["zip"], seed), 20)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len(set(first)) > 15


def raise_long_message(_: bytes) -> None:
    raise InputError("two\nlines")


def fill_memory(_: bytes) -> None:
    np.ones(25 << 20)


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (lambda data: {}[data], "KeyError"),
        (lambda data: [][0], "IndexError"),
        (raise_long_message, "2 lines"),
        (lambda data: time.sleep(9), "takes more than"),
        (fill_memory, "fills"),
    ],
)
def test_what_is_wrong_with_a_reader_is_found(monkeypatch: pytest.MonkeyPatch, read: object, expected: str) -> None:
    monkeypatch.setattr(fuzz, "HANG_S", 1.0 if expected.startswith("takes") else 60.0)
    monkeypatch.setattr(fuzz, "MAX_GROWTH_KB", 10_000)
    assert expected in try_input(Target((b"",), read), b"")[1]  # type: ignore[arg-type]


@pytest.mark.campaign
def test_a_minute_of_each_target() -> None:
    options = argparse.Namespace(seed=0, seconds=60.0, inputs=None, atheris=False)
    assert [problem for name in TARGETS for problem in fuzz._run_in_child(name, options)[1]] == []
