"""The config.pbtxt of a model: what it says, what of it is read again, and which options it refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dni_deploy._version import __version__
from dni_deploy.errors import MismatchError, UsageError
from dni_deploy.model_repository.model_config import ModelOptions, format_config, list_inputs, list_outputs, make_probe_request
from dni_deploy.signature import Signature
from tests.support.served_bundle import GAIN

CONTROLLED = Signature(radius=0, controls=(GAIN,))


def test_a_config_in_full() -> None:
    options = ModelOptions(device="cpu", instances=2, max_queue=8, tile=64, threads=3, controls={"gain": 0.5})
    assert (
        format_config("sr", CONTROLLED, options)
        == f"""\
# Written by dni-deploy triton {__version__}; docs/triton.md explains it.
name: "sr"
backend: "python"
max_batch_size: 0
input [
  {{ name: "image" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] }},
  {{ name: "alpha" data_type: TYPE_FP32 dims: [ -1 ] }},
  {{ name: "rules" data_type: TYPE_UINT8 dims: [ -1 ] optional: true }},
  {{ name: "control_gain" data_type: TYPE_FP32 dims: [ 1 ] optional: true }}
]
output [
  {{ name: "output" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] }},
  {{ name: "alpha" data_type: TYPE_FP32 dims: [ -1 ] }}
]
instance_group [ {{ kind: KIND_CPU count: 2 }} ]
dynamic_batching {{ default_queue_policy {{ max_queue_size: 8 }} }}
parameters {{ key: "engine" value {{ string_value: "auto" }} }}
parameters {{ key: "threads" value {{ string_value: "3" }} }}
parameters {{ key: "tile" value {{ string_value: "64" }} }}
parameters {{ key: "controls" value {{ string_value: "gain=0.5" }} }}
"""
    )


def test_without_a_limit_there_is_no_batcher_since_its_queue_is_slow() -> None:
    assert "dynamic_batching" not in format_config("sr", CONTROLLED, ModelOptions())


def test_raw_tensors_have_the_networks_channels() -> None:
    inputs = list_inputs(Signature(input_channels=5, output_channels=2), raw=True)
    outputs = list_outputs(Signature(input_channels=5, output_channels=2), raw=True)
    assert (inputs[0].describe(), outputs[0].describe()) == ("FP32 [-1,5,-1,-1]", "FP32 [-1,2,-1,-1]")


def test_a_network_of_tensors_is_refused_as_one_of_images() -> None:
    with pytest.raises(MismatchError, match=r"takes 5 and gives 2\..*--raw serves its tensors"):
        format_config("sr", Signature(input_channels=5, output_channels=2), ModelOptions())


@pytest.mark.parametrize(
    "options",
    [
        ModelOptions(),
        ModelOptions(engine="onnxruntime-gpu", precision="fp16", threads=2),
        ModelOptions(tile=128, extrapolate=True, controls={"gain": "25 / 255", "c.0": "1e-05"}),
        ModelOptions(raw=True),
    ],
)
def test_what_an_instance_needs_is_read_again(options: ModelOptions) -> None:
    assert ModelOptions.from_parameters(options.to_parameters()) == replace(options, controls=dict(options.controls))


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"threads": "many"}, "The parameters of config.pbtxt cannot be used: .*many"),
        ({"threads": "-1"}, "-1"),
        ({"tile": "1.5"}, "1.5"),
        ({"engine": "fast"}, "fast"),
        ({"precision": "fp8"}, "fp8"),
        ({"controls": "gain"}, "sets no control"),
    ],
)
def test_parameters_that_were_edited_wrongly_are_named(parameters: dict[str, str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        ModelOptions.from_parameters(parameters)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"device": "tpu"}, "gpu or cpu; got 'tpu'"),
        ({"instances": 0}, "1 to 64 instances"),
        ({"instances": 65}, "1 to 64 instances"),
        ({"max_queue": -1}, "0 to 100000 requests"),
        ({"device": "gpu", "engine": "onnxruntime"}, "onnxruntime does not run on a GPU"),
        ({"device": "cpu", "engine": "tensorrt"}, "tensorrt does not run on a CPU"),
        ({"device": "cpu", "precision": "fp16"}, "A CPU computes in fp32"),
        ({"raw": True, "tile": 64}, "Tiles are of images"),
        ({"engine": "fast"}, "fast"),
        ({"precision": "fp8"}, "fp8"),
        ({"threads": -1}, "-1"),
        ({"tile": 1}, "at least 16 pixels"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        ModelOptions(**options)


@pytest.mark.parametrize(
    ("kind", "engine", "opened"),
    [
        ("CPU", "auto", ("onnxruntime", 0)),
        ("GPU", "auto", ("auto", 3)),
        ("GPU", "onnxruntime-gpu", ("onnxruntime-gpu", 3)),
        ("CPU", "onnxruntime", ("onnxruntime", 0)),
    ],
)
def test_the_instance_decides_about_the_engine(kind: str, engine: str, opened: tuple[str, int]) -> None:
    options = ModelOptions(engine=engine).make_session_options(kind, 3)
    assert (options.engine, options.device) == opened


@pytest.mark.parametrize("controls", [{"sigma": 1.0}, {"gain": 9.0}])
def test_a_control_that_is_none_is_refused_when_the_model_is_written(controls: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=re.escape("sigma" if "sigma" in controls else "outside its range")):
        format_config("sr", CONTROLLED, ModelOptions(controls=controls))


@pytest.mark.parametrize(
    ("signature", "members", "raw", "shape", "alpha"),
    [
        (Signature(), 2, False, [8, 8, 3], [1.0]),
        (Signature(multiple=64), 3, False, [64, 64, 3], [1.0, 0.0, 0.0]),
        (Signature(input_channels=1, output_channels=1), 2, True, [3, 1, 8, 8], [1.0]),
        (Signature(input_channels=100, kind="latent"), 2, True, [1, 100, 1, 1], [1.0]),
    ],
)
def test_a_probe_is_a_whole_request(
    signature: Signature, members: int, raw: bool, shape: list[int], alpha: list[float]
) -> None:
    request = json.loads(json.dumps(make_probe_request(signature, members, raw=raw)))
    first, second = request["inputs"]
    assert (first["shape"], second["data"]) == (shape, alpha)
    assert len(first["data"]) == np.prod(shape)
    assert request["outputs"] == [{"name": "alpha"}]  # a few bytes, whatever the network enlarges
