"""Parity: for every architecture, alpha and size, what runs is what PyTorch computes with the blended state dict."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.api.export import export
from dni_deploy.blending.blend import blend_float64
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.session.session import open_session
from dni_deploy.utils.compare_arrays import relative_error
from tests.support.pico_architectures import PICO, pico_family, pico_net

TOLERANCE = 1e-5
"""Float32 against float64. Measured: 1e-6 for networks of convolutions, 5e-6 with InstanceNorm, which divides by small spreads."""
NAMES = ("first", "second", "third")
PAIR = [(share, 1 - share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
SIMPLEX = [tuple(point) for point in np.random.default_rng(3).dirichlet((1.0, 1.0, 1.0), 3).tolist()]

Infer = Callable[[tuple[float, ...], np.ndarray], np.ndarray]
Runner = Callable[[Bundle], "contextlib.AbstractContextManager[Infer]"]


@contextlib.contextmanager
def graph_runner(bundle: Bundle) -> Iterator[Infer]:
    """A new ONNX Runtime session per alpha, on the bundle's graph with the blended weights in it."""

    def infer(shares: tuple[float, ...], x: np.ndarray) -> np.ndarray:
        blended = blend_float64([bundle.read_weights(member) for member in bundle.members], np.array(shares))
        graph = bundle.read_graph_with_weights({name: tensor.astype(np.float32) for name, tensor in blended.items()})
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        output: np.ndarray = session.run(None, {"x": x})[0]
        return output

    yield infer


@contextlib.contextmanager
def session_runner(bundle: Bundle) -> Iterator[Infer]:
    """One session, whose alpha changes while it lives."""
    with open_session(bundle) as session:

        def infer(shares: tuple[float, ...], x: np.ndarray) -> np.ndarray:
            session.alpha = shares
            return session.infer(x)

        yield infer


@pytest.fixture(params=[graph_runner, session_runner], ids=["graph", "session"])
def runner(request: pytest.FixtureRequest) -> Runner:
    chosen: Runner = request.param
    return chosen


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], tuple[Bundle, list[dict[str, np.ndarray]]]]:
    """The bundle of `n` members of a pico architecture, made once, and the members' tensors."""
    folder = tmp_path_factory.mktemp("parity")
    made: dict[tuple[str, int], tuple[Bundle, list[dict[str, np.ndarray]]]] = {}

    def give(name: str, n: int) -> tuple[Bundle, list[dict[str, np.ndarray]]]:
        if (name, n) not in made:
            states = pico_family(name, n)
            made[name, n] = export(dict(zip(NAMES, states, strict=False)), folder / f"{name}{n}.dni"), states
        return made[name, n]

    return give


def truth(name: str, states: list[dict[str, np.ndarray]], shares: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    """PyTorch in float64 with the float64 blend, loaded strictly."""
    floats = [{key: array for key, array in state.items() if array.dtype.kind == "f"} for state in states]
    blended: dict[str, Any] = {**states[0], **blend_float64(floats, np.array(shares))}
    net = pico_net(name).double()
    net.load_state_dict({key: torch.as_tensor(array) for key, array in blended.items()}, strict=True)
    with torch.no_grad():
        return net(torch.from_numpy(x).double()).numpy()


@pytest.mark.parametrize("name", PICO)
def test_output_is_that_of_pytorch_with_the_blended_state_dict(
    name: str, runner: Runner, exported: Callable[[str, int], tuple[Bundle, list[dict[str, np.ndarray]]]]
) -> None:
    random = np.random.default_rng(11)
    for n, points in ((2, PAIR), (3, SIMPLEX)):
        bundle, states = exported(name, n)
        low, high = bundle.signature.low, bundle.signature.high
        with runner(bundle) as infer:
            for shares in points:
                Coefficients.parse(shares, NAMES[:n])
                for shape in PICO[name].shapes:
                    x = random.uniform(low, high, shape).astype(np.float32)
                    wanted = truth(name, states, shares, x)
                    got = infer(shares, x)
                    assert got.shape == wanted.shape
                    error = relative_error(got, wanted)
                    assert error <= TOLERANCE, f"{name} at {shares}, {shape}: {error:.1e}"
