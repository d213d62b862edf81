"""Exported graphs are read by other runtimes than the one that verifies them. Skipped where they are not installed.

Three are found by an environment variable, a folder each: DNI_ONNXRUNTIME_WEB, made by `npm install --prefix FOLDER
onnxruntime-web`; DNI_ONNXRUNTIME_OLD by `pip install --target FOLDER onnxruntime==1.17.3 'numpy<2'`; DNI_NCNN by `pip install
--no-deps --target FOLDER ncnn pnnx portalocker tqdm`.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dni_deploy.signature import Signature
from exporters.export_graph import export_graph
from tests.support.exported_network import ROUNDING, export_pico, seeded_input
from tests.support.pico_architectures import PICO

MAX_ERROR = 1e-4
GRAPHS = ("srcnn_959", "dncnn_bn", "rrdbnet", "compact_x2", "cyclegan", "transformer_net", "dcgan")
RUN_IN_NODE = """
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
const ort = createRequire(process.argv[1] + "/package.json")("onnxruntime-web");
ort.env.wasm.numThreads = 1;
const outputs = [];
for (const { model, shape, input } of JSON.parse(readFileSync(0))) {
  const session = await ort.InferenceSession.create(model);
  const values = new Float32Array(new Uint8Array(Buffer.from(input, "base64")).buffer);
  const { y } = await session.run({ x: new ort.Tensor("float32", values, shape) });
  outputs.push(Buffer.from(y.data.buffer, y.data.byteOffset, y.data.byteLength).toString("base64"));
}
console.log(JSON.stringify(outputs));
"""
RUN_IN_OLD_ONNXRUNTIME = """
import base64, json, sys, numpy, onnxruntime
assert onnxruntime.__version__.startswith("1.17."), onnxruntime.__version__
outputs = []
for request in json.load(sys.stdin):
    x = numpy.frombuffer(base64.b64decode(request["input"]), numpy.float32).reshape(request["shape"])
    session = onnxruntime.InferenceSession(request["model"], providers=["CPUExecutionProvider"])
    outputs.append(base64.b64encode(session.run(None, {"x": x})[0].tobytes()).decode())
print(json.dumps(outputs))
"""
RUN_IN_NCNN = """
import base64, json, subprocess, sys, numpy, ncnn
outputs = []
for request in json.load(sys.stdin):
    shape, model = request["shape"], request["model"]
    sizes = ["[" + ",".join(map(str, size)) + "]" for size in (shape, [*shape[:2], shape[2] + 16, shape[3] + 16])]
    pnnx = [sys.argv[1] + "/pnnx/pnnx", model, "inputshape=" + sizes[0], "fp16=0"]
    subprocess.run(pnnx + ["inputshape2=" + sizes[1]] * (shape[2] > 1), check=True, stdout=subprocess.DEVNULL)
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = False
    net.load_param(model.replace(".onnx", ".ncnn.param"))
    net.load_model(model.replace(".onnx", ".ncnn.bin"))
    extractor = net.create_extractor()
    x = numpy.frombuffer(base64.b64decode(request["input"]), numpy.float32).reshape(shape)
    extractor.input("in0", ncnn.Mat(x[0]).clone())
    outputs.append(base64.b64encode(numpy.array(extractor.extract("out0")[1]).tobytes()).decode())
print(json.dumps(outputs))
"""


@pytest.fixture(scope="module")
def graph_requests(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """A graph of each architecture that is known by name, with an input, and what PyTorch computes."""
    folder, requests, expected = tmp_path_factory.mktemp("graphs"), [], []
    for name in GRAPHS:
        exported, net, _ = export_pico(name)
        path = folder / f"{name}.onnx"
        path.write_bytes(exported.graph.SerializeToString())
        x = seeded_input(1, *PICO[name].shapes[0][1:])
        requests.append({"model": str(path), "shape": list(x.shape), "input": base64.b64encode(x.numpy().tobytes()).decode()})
        expected.append(net(x).numpy())
    return requests, expected


def find_folder(variable: str) -> str:
    folder = os.environ.get(variable, "")
    if not folder:
        pytest.skip(f"{variable} names no folder")
    return folder


def check_runtime(
    command: list[str], graph_requests: tuple[list[dict[str, Any]], list[np.ndarray]], **environment: str
) -> None:
    requests, expected = graph_requests
    done = subprocess.run(
        command, input=json.dumps(requests), capture_output=True, text=True, env={**os.environ, **environment}, timeout=300,
        cwd=Path(requests[0]["model"]).parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    errors = {}
    for request, text, reference in zip(requests, json.loads(done.stdout.splitlines()[-1]), expected, strict=True):
        output = np.frombuffer(base64.b64decode(text), np.float32).reshape(reference.shape)
        errors[Path(request["model"]).stem] = float(np.abs(output - reference).max() / np.abs(reference).max())
    print(errors)
    assert max(errors.values()) <= MAX_ERROR, errors


@pytest.mark.slow
def test_onnxruntime_web_computes_what_pytorch_does(graph_requests: Any) -> None:
    folder = find_folder("DNI_ONNXRUNTIME_WEB")
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    check_runtime(["node", "--input-type=module", "-e", RUN_IN_NODE, folder], graph_requests)


@pytest.mark.slow
def test_an_old_onnxruntime_computes_what_pytorch_does(graph_requests: Any) -> None:
    folder = find_folder("DNI_ONNXRUNTIME_OLD")
    check_runtime([sys.executable, "-c", RUN_IN_OLD_ONNXRUNTIME], graph_requests, PYTHONPATH=folder)


@pytest.mark.slow
def test_ncnn_computes_what_pytorch_does(graph_requests: Any) -> None:
    folder = find_folder("DNI_NCNN")
    check_runtime([sys.executable, "-c", RUN_IN_NCNN, folder], graph_requests, PYTHONPATH=folder)


def run_openvino(model: bytes, x: np.ndarray) -> np.ndarray:
    openvino: Any = pytest.importorskip("openvino")
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model=model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    output: np.ndarray = compiled([x])[0]
    return output


@pytest.mark.parametrize("name", ["compact", "unshuffle"])
def test_openvino_computes_what_pytorch_does(name: str) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    torch.manual_seed(0)
    if name == "compact":
        exported, net, _ = export_pico(name)
    else:
        net = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 12, 1), nn.PixelShuffle(2)).eval().requires_grad_(False)
        exported = export_graph(net, Signature(multiple=2))
    x = seeded_input(1, 3, 20, 28)
    expected = net(x).numpy()
    assert (
        np.abs(run_openvino(exported.graph.SerializeToString(), x.numpy()) - expected).max()
        <= ROUNDING * np.abs(expected).max()
    )
