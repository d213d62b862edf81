"""A family computes what its network computes in PyTorch, from checkpoints and from a bundle, or reports the missing package."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dni_deploy.api.check import check
from dni_deploy.api.export import export
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.checkpoints.family import Family
from dni_deploy.compatibility.runner import open_runner

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
import torch

from tests.support.pico_architectures import PICO, pico_family

BLEND = {"a": 0.25, "b": 0.75}


def blend_in_torch(states: dict[str, dict[str, Any]]) -> Any:
    """Returns the network in float64 with the blended state dict."""
    net = PICO["dncnn_bn"].factory().double().eval()
    first, second = states.values()
    blend = {key: 0.25 * first[key].astype(np.float64) + 0.75 * second[key] for key in first if first[key].dtype.kind == "f"}
    net.load_state_dict({key: torch.from_numpy(values) for key, values in blend.items()}, strict=False)
    return net


@pytest.mark.parametrize("as_bundle", [False, True])
def test_outputs_and_batchnorm_inputs_are_those_of_torch(tmp_path: Path, as_bundle: bool) -> None:
    states = dict(zip("ab", pico_family("dncnn_bn", 2), strict=True))
    bundle = export(states, tmp_path / "x.dni") if as_bundle else None
    inputs = [np.random.default_rng(seed).random((1, 3, 24, 32 + 8 * seed), np.float32) for seed in range(2)]
    net, batchnorm_inputs = blend_in_torch(states), {}
    for name, module in net.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            batchnorm_inputs[name] = []
            module.register_forward_pre_hook(
                lambda module, x, values=batchnorm_inputs[name]: values.append(x[0].transpose(0, 1).flatten(1))
            )
    with torch.no_grad():
        expected = [net(torch.from_numpy(x).double()).numpy() for x in inputs]
    with open_runner(Family.from_checkpoints(states), bundle) as runner:
        outputs = runner.infer(BLEND, inputs)
        statistics = runner.measure_batchnorm_inputs(runner.blend_tensors(BLEND), inputs)
    assert (runner.architecture, runner.signature.multiple) == ("dncnn", 1)
    for output, truth in zip(outputs, expected, strict=True):
        assert np.abs(output - truth).max() <= 1e-5 * np.abs(truth).max()  # float32 against float64, five layers
    assert list(statistics) == list(batchnorm_inputs)
    for name, (mean, variance) in statistics.items():
        each = [values.numpy() for values in batchnorm_inputs[name]]
        mean_truth = np.mean([values.mean(axis=1) for values in each], axis=0)  # each input has equal weight
        square = np.mean([np.square(values).mean(axis=1) for values in each], axis=0)
        np.testing.assert_allclose(mean, mean_truth, rtol=0, atol=1e-5 * np.sqrt(square.max()))  # float32 activations and sums
        np.testing.assert_allclose(variance, square - mean_truth**2, rtol=1e-4)


def test_a_single_member_has_its_own_tensors_bit_for_bit() -> None:
    states = dict(zip("ab", pico_family("dncnn_bn", 2), strict=True))
    with open_runner(Family.from_checkpoints(states), None) as runner:
        assert all(values.tobytes() == states["b"][name].tobytes() for name, values in runner.blend_tensors({"b": 1.0}).items())


def hide_package(monkeypatch: pytest.MonkeyPatch, package: str, *importers: str) -> None:
    """Makes the package appear not installed, and modules that import it not imported."""
    for name in [name for name in sys.modules if name.startswith(importers)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)


def test_without_onnxruntime_there_is_no_midpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_package(
        monkeypatch, "onnxruntime", "dni_deploy.utils.onnxruntime_library", "engines.ort_session", "engines.onnxruntime_cpu"
    )
    report = check(dict(zip("ab", pico_family("srcnn_959", 2), strict=True)))
    assert (report.midpoints, report.verdict) == ((), "not known")
    assert report.reasons[0].startswith("Nothing was run, so whether the members blend is not known.")
    assert "pip install" in report.reasons[0]


def test_of_a_network_that_cannot_be_exported_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dni_deploy.errors import InputError

    monkeypatch.setenv("DNI_CACHE", str(tmp_path))  # another test may have left the graph in the common one

    def fail(*args: Any, **options: Any) -> None:
        raise InputError("The network X cannot be exported: reasons.")

    monkeypatch.setattr("exporters.cache.export_graph", fail)
    report = check(dict(zip("ab", pico_family("compact", 2), strict=True)))
    assert (report.midpoints, report.verdict) == ((), "not known")
    assert "The network X cannot be exported" in report.reasons[0]


def test_a_bundle_runs_on_its_engine(tmp_path: Path) -> None:
    from tests.support import pico_bundle

    bundle = Bundle.open(pico_bundle.write(tmp_path / "x.dni", count=2).path)
    family = Family.from_checkpoints({name: bundle.read_tensors(name) for name in bundle.members})
    x = np.random.default_rng(0).random((1, bundle.signature.input_channels, 16, 16), np.float32)
    with open_runner(family, bundle) as runner:
        first, middle, second = (runner.infer(blend, [x])[0] for blend in ({"a": 1.0}, {"a": 0.5, "b": 0.5}, {"b": 1.0}))
    assert not np.array_equal(first, second)
    assert not np.array_equal(middle, first)
