"""The network of a site: its graph with inputs, blended by the page's own code, computes what a Session does."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import MismatchError
from dni_deploy.network_controls import Control
from dni_deploy.session.session import open_session
from dni_deploy.signature import Signature
from dni_deploy.website.network import WebNetwork, choose_tiles, make_web_network
from engines.calibrated_network import read_network
from engines.lowering.gpu import lower_for_gpu
from engines.ort_session import make_session_options
from tests.engines.conftest import Case, write
from tests.engines.onnxruntime_cpu.test_calibration import calibrated
from tests.support import handmade_graphs as hand
from tests.support import pico_bundle as pico
from tests.support.page_in_node import run_in_node

MAX_ERROR = 1e-6
"""Of the output's largest value: float32 sums in another order."""

SHARES = ([1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.35, 0.65, 0.0], [0.2, 0.3, 0.5], [0.25, 0.5, 0.25])
BLEND = """
const bytes = text => new Uint8Array(Buffer.from(text, "base64")).buffer;
answer(request.map(({ facts, members, statistics, settings }) => {
  const blender = new Blender(facts, members.map(row => new Float32Array(bytes(row))), new Float64Array(bytes(statistics)));
  const out = new Float32Array(facts.weight_count);
  return settings.map(({ shares, controls }) => {
    blender.blend(shares, controls, out);
    return Buffer.from(out.buffer).toString("base64");
  });
}));
"""


def with_control() -> Case:
    """A convolution whose output is multiplied by a control, read in two ranks."""
    graph = hand.Hand()
    gain = graph.weight("controls.gain", (1,), 1, 1)
    scaled = graph.node("Mul", [graph.conv("x", 3), gain])
    case = graph.case(graph.node("Add", [scaled, gain]))
    return replace(case, signature=replace(case.signature, controls=(Control("gain", 0.0, 2.0, 0.0),)))


CASES: dict[str, Callable[[], Case]] = {
    "conv_bn": hand.conv_without_bias_bn,
    "bn_first": lambda: three_channels(hand.bn_first),
    "transposed_bn": lambda: three_channels(hand.transposed_bn),
    "bn_after_add": hand.bn_after_add,
    "bn_after_a_shared_conv": hand.bn_after_a_shared_conv,
    "bn_after_grouped_conv": hand.bn_after_grouped_conv,
    "bn_whose_mean_is_read_twice": lambda: three_channels(hand.bn_whose_mean_is_read_twice),
    "prelu": hand.prelu_per_channel,
    "control": with_control,
    "calibrated_bn": hand.conv_without_bias_bn,
    "calibrated_layers": hand.prelu_per_channel,
}


def three_channels(make: Callable[[], Case]) -> Case:
    """The case, with a signature that says 3 channels: the page would refuse it otherwise, and nothing else depends on it."""
    case = make()
    return replace(case, signature=replace(case.signature, output_channels=3))


class Blended(NamedTuple):
    bundle: Bundle
    network: WebNetwork
    settings: list[dict[str, Any]]
    weights: list[NDArray[np.float32]]
    x: NDArray[np.float32]


@pytest.fixture(scope="module")
def blended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Blended]:
    """Every case as a bundle, and its weights at each setting, blended by the page's code in one run of Node.js."""
    folder = tmp_path_factory.mktemp("web")
    results, requests = {}, []
    for name, make in CASES.items():
        case = make()
        bundle = write(case, folder / f"{name}.dni", 3)
        if name.startswith("calibrated"):
            bundle = calibrated(bundle)
        network = make_web_network(bundle)
        controls: list[dict[str, float]] = [{"gain": value} for value in (0.0, 0.7, 1.5)] if name == "control" else [{}]
        settings = [{"shares": shares, "controls": each} for shares in SHARES for each in controls]
        requests.append(
            {
                "facts": network.facts,
                "members": [encode(row) for row in network.members],
                "statistics": encode(network.statistics),
                "settings": settings,
            }
        )
        results[name] = Blended(bundle, network, settings, [], case.inputs()[0])
    answers = run_in_node(tmp_path_factory.mktemp("node"), 'import { Blender } from "./blend.js";', BLEND, requests)
    for result, texts in zip(results.values(), answers, strict=True):
        result.weights.extend(np.frombuffer(base64.b64decode(text), np.float32) for text in texts)
    return results


def encode(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def split_weights(network: WebNetwork, weights: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    feeds = {}
    for weight in network.facts["weights"]:
        count = int(np.prod(weight["shape"], dtype=int))
        feeds[weight["name"]] = weights[weight["offset"] : weight["offset"] + count].reshape(weight["shape"])
    return feeds


@pytest.mark.parametrize("name", CASES)
def test_the_graph_with_the_pages_blend_equals_a_session(name: str, blended: dict[str, Blended]) -> None:
    bundle, network, settings, weights, x = blended[name]
    graph = network.graph.SerializeToString()
    session = onnxruntime.InferenceSession(graph, make_session_options(1), providers=["CPUExecutionProvider"])
    with open_session(bundle, threads=1) as reference:
        for setting, each in zip(settings, weights, strict=True):
            reference.controls = setting["controls"]
            expected = reference.infer(x, alpha=setting["shares"])
            feeds = {network.facts["input"]: x, **split_weights(network, each)}
            (output,) = session.run([network.facts["output"]], feeds)
            assert np.abs(output - expected).max() <= MAX_ERROR * np.abs(expected).max(), setting


@pytest.mark.parametrize("name", [name for name in CASES if name != "control"])
def test_a_member_alone_is_that_member_bit_for_bit(name: str, blended: dict[str, Blended]) -> None:
    bundle, network, settings, weights, _ = blended[name]
    calibrated_network = read_network(bundle)
    lowered = lower_for_gpu(calibrated_network.graph, calibrated_network.weight_names, "fp32")
    members = calibrated_network.read_members()
    for setting, each in zip(settings, weights, strict=True):
        if 1.0 not in setting["shares"]:
            continue
        own = lowered.recipes.compute_values(members[setting["shares"].index(1.0)])
        for key, value in split_weights(network, each).items():
            assert value.tobytes() == own[key].tobytes(), (key, setting)


def test_a_network_that_takes_no_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="Frames need a network of 3 channels or of 1"):
        make_web_network(pico.write(tmp_path / "x.dni"))


def test_tiles_are_as_large_as_the_activations_allow(blended: dict[str, Blended]) -> None:
    small = blended["conv_bn"].network.graph
    signature = Signature(radius=3)
    assert choose_tiles(signature, small) == {"side": 256, "overlap": 3}
    wide = hand.Hand()
    large = wide.case(wide.conv(wide.conv("x", 1024), 3)).graph  # 1024 channels: 268 MB at 256 x 256
    assert choose_tiles(signature, large) == {"side": 128, "overlap": 3}
    assert choose_tiles(Signature(radius=None), small) is None
    assert choose_tiles(Signature(radius=64), large) == {"side": 256, "overlap": 64}  # smaller ones would be overlap alone
    assert choose_tiles(Signature(radius=64, multiple=512), small) == {"side": 1536, "overlap": 64}
