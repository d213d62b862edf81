"""inspect reports what a bundle holds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from dni_deploy.api.inspect import PLAN_FILE_NAME, find_weight_roles, inspect
from dni_deploy.bundle.writer import store_slider
from dni_deploy.cli.main import main
from dni_deploy.errors import BundleError
from tests.support import pico_bundle as pico


def test_inspect_reports_what_a_bundle_holds(tmp_path: Path) -> None:
    bundle = pico.write(tmp_path / "x.dni", dtype=np.float16)
    report = inspect(bundle.path)
    assert (report.architecture, report.opset, report.signature) == ("pico", 17, pico.SIGNATURE)
    assert report.digest == bundle.digest
    assert report.verification_error == 0.0
    assert report.operators == {"Conv": 1, "BatchNormalization": 1, "PRelu": 1, "Mul": 1}
    assert report.parameters == 18 + 2 + 4 * 2 + 2
    assert report.unused == ("spare.weight",)
    assert [(member.name, member.source, member.dtype) for member in report.members] == [
        ("a", "a.pth", "float16"),
        ("b", "b.pth", "float16"),
    ]
    files = sum((bundle.path / name).stat().st_size for name in os.listdir(bundle.path) if name != "manifest.json")
    assert report.size == files
    assert {row.name: row.role for row in report.weights} == {
        "conv.weight": "convolution weight",
        "conv.bias": "convolution bias",
        "bn.weight": "BatchNorm gamma",
        "bn.bias": "BatchNorm beta",
        "bn.running_mean": "BatchNorm mean",
        "bn.running_var": "BatchNorm variance",
        "prelu.weight": "PReLU slope",
    }
    assert [row.shape for row in report.weights] == [pico.SHAPES[name] for name in pico.USED]
    assert json.loads(json.dumps(report.to_json()))["weights"][0]["shape"] == [2, 1, 3, 3]


def test_roles_are_found_across_pass_through_operators_and_merged() -> None:
    nodes = [
        helper.make_node("Transpose", ["linear"], ["turned"]),
        helper.make_node("MatMul", ["x", "turned"], ["y"]),
        helper.make_node("Unsqueeze", ["slope", "axes"], ["wide"]),
        helper.make_node("PRelu", ["y", "wide"], ["z"]),
        helper.make_node("Add", ["z", "shared"], ["s"]),
        helper.make_node("Mul", ["shared", "s"], ["t"]),
        helper.make_node("Resize", ["t", "odd"], ["r"]),
    ]
    value = helper.make_tensor_value_info("r", TensorProto.FLOAT, None)
    model = helper.make_model(helper.make_graph(nodes, "roles", [], [value]))
    assert find_weight_roles(model, ("linear", "slope", "shared", "odd", "idle")) == {
        "linear": "linear weight",
        "slope": "PReLU slope",
        "shared": "scale and shift",
        "odd": "Resize input 1",
        "idle": "unused",
    }


def test_a_damaged_bundle_is_not_described(tmp_path: Path) -> None:
    bundle = pico.write(tmp_path / "x.dni")
    path = bundle.path / bundle.manifest.graph.file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match="cut or changed"):
        inspect(bundle.path)


def test_inspect_reports_the_slider(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = pico.write(tmp_path / "x.dni")
    assert inspect(bundle.path).slider is None
    assert main(["inspect", str(bundle.path)]) == 0
    assert "even steps" not in capsys.readouterr().out
    points = [(0.0, 0.0), (0.25, 0.5), (1.0, 1.0)]
    store_slider(bundle, points)  # as in bundles written before the images were recorded
    assert inspect(bundle.path).slider == {"members": ["b", "a"], "points": 3}  # position 0 is alpha 0: only the second member
    assert main(["inspect", str(bundle.path)]) == 0
    assert "even steps from b to a, 3 points\n" in capsys.readouterr().out
    images = [{"name": name, "sha256": "0" * 64} for name in ("in.png", "other.png")]
    store_slider(bundle, points, {"pictures": images, "before": 1.906, "after": 1.08, "members": "free form"})
    assert main(["inspect", str(bundle.path)]) == 0
    expected = "even steps from b to a, 3 points, measured on 2 images; largest step / mean 1.91 by alpha, 1.08 by the slider\n"
    assert expected in capsys.readouterr().out
    assert main(["inspect", str(bundle.path), "--json"]) == 0
    slider_json = json.loads(capsys.readouterr().out)["slider"]
    assert slider_json == {"members": ["b", "a"], "points": 3, "pictures": images, "before": 1.906, "after": 1.08}
    store_slider(bundle, points, {"pictures": "none", "before": "much", "after": None})
    assert main(["inspect", str(bundle.path)]) == 0
    assert "even steps from b to a, 3 points\n" in capsys.readouterr().out


def test_plans_are_listed_by_their_names(tmp_path: Path) -> None:
    bundle = pico.write(tmp_path / "x.dni")
    assert inspect(bundle.path).plans == ()
    folder = bundle.path / "plans"
    folder.mkdir()
    key = "0123456789abcdef"
    for name in (f"tensorrt-refit-fp16-{key}.plan", f"tensorrt-inputs-fp32-{key}.plan", f"onnxruntime-{key}.plan"):
        (folder / name).write_bytes(b"12345")
    for name in ("notes.txt", "tensorrt-refit-fp16-0.plan", f"tensorrt-refit-fp16-{key}.plan.tmp"):
        (folder / name).touch()
    (folder / f"tensorrt-graph-fp16-{key}.plan").mkdir()
    assert [(plan.engine, plan.precision, plan.size) for plan in inspect(bundle.path).plans] == [
        ("onnxruntime", "fp32", 5),
        ("tensorrt-inputs", "fp32", 5),
        ("tensorrt", "fp16", 5),
    ]
    assert json.loads(json.dumps(inspect(bundle.path).to_json()))["plans"][2]["engine"] == "tensorrt"


def test_the_engines_names_for_their_plans_are_known(tmp_path: Path) -> None:
    from engines.onnxruntime_cpu.plan import plan_path
    from tests.engines.conftest import identify_plan

    bundle = pico.write(tmp_path / "x.dni")
    assert PLAN_FILE_NAME.fullmatch(plan_path(bundle, identify_plan(bundle)).name)
