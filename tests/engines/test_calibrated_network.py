"""The calibration file survives a round trip, and invalid handmade files are refused with one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from dni_deploy.blending.calibration_table import CalibrationTable
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.writer import store_calibration
from dni_deploy.errors import BundleError
from engines.calibrated_network import CALIBRATION_FORMAT, read_network, serialize_calibration
from tests.support import pico_bundle as pico

NAMES = ("bn.running_mean", "bn.running_var")


def read_calibration(bundle: Bundle) -> CalibrationTable | None:
    network = read_network(bundle)
    return network.make_table(network.read_members())


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return pico.write(tmp_path / "x.dni")


def made(bundle: Bundle, steps: int = 4) -> CalibrationTable:
    rng = np.random.default_rng(0)
    members = [bundle.read_weights(member) for member in bundle.members]
    about = {"pictures": [{"name": "späre\n.png", "sha256": "ab" * 32, "parts": 48}], "parts": 48}
    return CalibrationTable.from_inner_statistics(
        members, steps, {name: rng.uniform(0.1, 2, (steps - 1, 2)) for name in NAMES}, about
    )


def test_statistics_survive_a_round_trip(bundle: Bundle) -> None:
    assert read_calibration(bundle) is None
    before = made(bundle)
    data = serialize_calibration(before)
    assert data == serialize_calibration(made(bundle))
    stored = store_calibration(bundle, data)
    after = read_calibration(stored)
    assert after is not None
    assert after.steps == 4
    assert after.about == before.about
    assert set(after.statistics) == set(NAMES)
    for name in NAMES:
        assert after.statistics[name].tobytes() == before.statistics[name].tobytes()


def test_file_does_not_contain_the_members_own_statistics(bundle: Bundle) -> None:
    # A file cannot change the output of a member alone.
    stored = store_calibration(bundle, serialize_calibration(made(bundle)))
    found = read_calibration(stored)
    assert found is not None
    for row, member in ((0, "a"), (-1, "b")):
        for name in NAMES:
            assert found.statistics[name][row].astype(np.float32).tobytes() == bundle.read_weights(member)[name].tobytes()


def file(tensors: dict[str, Any] | None = None, **about: Any) -> bytes:
    """Builds a file by hand; `about` replaces fields of its JSON."""
    good = {name: np.full((3, 2), 0.5) for name in NAMES}
    fields = {"format": CALIBRATION_FORMAT, "steps": 4, "members": 2, **about}
    data: bytes = save({**good, **(tensors or {})}, {"dni_deploy": json.dumps(fields)})
    return data


def test_valid_handmade_file_is_read(bundle: Bundle) -> None:
    found = read_calibration(store_calibration(bundle, file()))
    assert found is not None
    assert len(found.calibration_points) == 5


TENSORS: dict[str, Any] = {
    "another tensor": {"conv.weight": np.zeros((3, 2))},
    "float32": {"bn.running_mean": np.zeros((3, 2), np.float32)},
    "too few knots": {"bn.running_mean": np.zeros((2, 2))},
    "too many channels": {"bn.running_mean": np.zeros((3, 3))},
    "NaN": {"bn.running_mean": np.full((3, 2), np.nan)},
    "infinite": {"bn.running_var": np.full((3, 2), np.inf)},
    "negative variance": {"bn.running_var": np.full((3, 2), -1e-9)},
}
HOSTILE: dict[str, bytes] = {
    **{name: file(tensors) for name, tensors in TENSORS.items()},
    "empty": b"",
    "a picture": b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
    "no metadata": save({name: np.full((3, 2), 0.5) for name in NAMES}),
    "metadata that is no JSON": save({name: np.full((3, 2), 0.5) for name in NAMES}, {"dni_deploy": "{"}),
    "metadata that is a list": save({name: np.full((3, 2), 0.5) for name in NAMES}, {"dni_deploy": "[]"}),
    "metadata nested without end": save({name: np.full((3, 2), 0.5) for name in NAMES}, {"dni_deploy": "[" * 100_000}),
    "endless metadata": file(pictures="x" * (1 << 21)),
    "one tensor missing": save(
        {NAMES[0]: np.full((3, 2), 0.5)}, {"dni_deploy": json.dumps({"format": CALIBRATION_FORMAT, "steps": 4, "members": 2})}
    ),
    "another format": file(format="dni-deploy calibration, version 2"),
    "other members": file(members=3),
    "members true": file(members=True),
    "no steps": file(steps=None),
    "one step": file(steps=1),
    "steps text": file(steps="4"),
    "negative steps": file(steps=-4),
    "endless steps": file(steps=10**9),
    "one knot too many": file({name: np.full((31, 2), 0.5) for name in NAMES}, steps=32),
    "steps that do not fit": file(steps=5),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_invalid_file_is_refused_with_one_sentence(bundle: Bundle, name: str) -> None:
    # Its SHA-256 matches the manifest: both were modified.
    stored = store_calibration(bundle, HOSTILE[name])
    with pytest.raises(BundleError) as raised:
        read_calibration(stored)
    assert stored.manifest.calibration is not None
    assert stored.manifest.calibration.file in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_modified_file_is_detected_on_use(bundle: Bundle) -> None:
    stored = store_calibration(bundle, file())
    assert stored.manifest.calibration is not None
    path = stored.path / stored.manifest.calibration.file
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match="SHA-256"):
        read_calibration(stored)
