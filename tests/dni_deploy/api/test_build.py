"""build reports what it built and why, rebuilds only with --force, and refuses contradicting options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dni_deploy.api.build import CalibrationOptions, build
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import UsageError
from tests.engines.conftest import write
from tests.support.handmade_graphs import HAND


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write(HAND["conv_bn"](), tmp_path / "x.dni")


def test_the_report_is_json_and_names_the_plan(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "dni_deploy"):
        report = build(bundle.path, engine="onnxruntime", threads=1)
    fields = json.loads(json.dumps(report.to_json()))
    assert (fields["engine"], fields["engine_reason"], fields["plan_kept"]) == ("onnxruntime", "asked for", False)
    assert Path(fields["plan"]).is_file()
    assert fields["weights"] == report.weights > 0
    assert report.error is not None
    assert report.error < 1e-5  # float32 against the reference in the same precision, a few roundings
    assert fields["precision"] is fields["profile"] is fields["calibration"] is None
    assert "building for the engine onnxruntime (asked for)" in caplog.messages
    assert any(message.startswith("building the engine took ") for message in caplog.messages)


def test_a_plan_is_rebuilt_only_with_force(bundle: Bundle) -> None:
    first = build(bundle.path, engine="onnxruntime", threads=1)
    with pytest.raises(UsageError, match="--force"):
        build(bundle.path, engine="onnxruntime", threads=1)
    again = build(bundle.path, engine="onnxruntime", threads=1, force=True)
    assert (again.plan, again.plan_kept) == (first.plan, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "abacus"}, "no engine 'abacus'"),
        ({"engine": "onnxruntime", "precision": "fp16"}, "has no use for precision"),
        ({"engine": "onnxruntime", "opt_shape": "1x3x8x8", "strip": True}, "has no use for profile and strip"),
        ({"calibration": CalibrationOptions(points=3)}, "not on which images"),
        ({"calibration": CalibrationOptions("in.png"), "no_calibration": True}, "made or removed, not both"),
        ({"no_calibration": True}, "no calibration to remove"),
    ],
)
def test_contradicting_options_are_refused_before_anything_is_written(
    options: dict[str, Any], message: str, bundle: Bundle
) -> None:
    with pytest.raises(UsageError, match=message):
        build(bundle.path, **{"engine": "onnxruntime", **options})
    assert not (bundle.path / "plans").exists()


@pytest.mark.parametrize("device", ["8", "2000", "8.", "8.6 8.9", "8.6,", "sm_86", "-1", "8.66"])
def test_what_is_no_device(bundle: Bundle, device: str) -> None:
    if device == "8":  # a number, which the engine on the CPU has no use for
        with pytest.raises(UsageError, match="has no use for device"):
            build(bundle.path, engine="onnxruntime", device=device)
        return
    with pytest.raises(UsageError, match=r"device is the number of a GPU, from 0, or compute capabilities such as 8\.6,8\.9"):
        build(bundle.path, engine="onnxruntime", device=device)


def test_compute_capabilities_are_for_tensorrt_for_rtx(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="no use for compute_capabilities; that is for tensorrt-rtx"):
        build(bundle.path, engine="onnxruntime", device="8.6,12.0")
