"""A network of frames whose pixels tell its alpha, and schedules of frames and refits that look at them.

It is the network of alpha_probe_network.py with its six outputs added up, so that frames go in and come out: a pixel times the
sum of the weights. The numbers are small multiples of 1/1024, and float32 frames are exact.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError
from dni_deploy.imaging import frames
from dni_deploy.signature import Signature
from engines.interface import BuildOptions, EngineOptions
from engines.profile import Profile
from tests.engines.conftest import write
from tests.engines.trt import alpha_probe_network
from tests.engines.trt.alpha_probe_network import FIRST, SECOND, WEIGHTS, Caught
from tests.engines.trt.conftest import engine_name
from tests.fakes.gpu import FakeGpu
from tests.support.handmade_graphs import Hand

SIGNATURE = Signature(input_channels=1, output_channels=1)
SIZES = ((1, 1), (2, 3), (4, 4), (3, 1))
OUTPUT = f"Sum_{WEIGHTS}"


def open_engine(gpu: FakeGpu, folder: Path, kind: str = "refit", *, graph: bool = False) -> Any:
    """Builds and opens an engine of two slots, and computes its frames by hand."""
    hand = Hand(1)
    outputs = [hand.conv("x", 1, weight=f"tag{index}", bias=False, kernel=1) for index in range(WEIGHTS)]
    case = hand.case(hand.node("Sum", outputs), name="frames")
    case.graph.opset_import[0].version = 17
    members = [
        {f"tag{index}.weight": np.full((1, 1, 1, 1), value, np.float32) for index, value in enumerate(values)}
        for values in (FIRST, SECOND)
    ]
    bundle = write(replace(case, members=members), folder / "frames.dni")
    gpu.trt.evaluator, gpu.trt.shapes = (None, None) if kind == "graph" else (evaluate, shapes)
    _build(bundle, kind)
    return alpha_probe_network.open_engine(bundle, kind, EngineOptions(slots=2, cuda_graph=graph))


def _build(bundle: Bundle, kind: str) -> None:
    from engines.trt.build import build_plan

    profile = Profile.from_shapes(SIGNATURE, (1, 1, 1, 1), (3, 1, 2, 3), (3, 1, 4, 4))
    build_plan(bundle, BuildOptions(profile=profile), None, alpha_probe_network.engine_class(kind, engine_name()))


def evaluate(inputs: dict[str, NDArray[Any]], weights: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    known = {**inputs, **weights}
    total = sum(known[f"tag{index}.weight"].reshape(()) for index in range(WEIGHTS))
    return {OUTPUT: np.float32(total) * known["x"]}


def shapes(inputs: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {OUTPUT: inputs["x"]}


LIMITS: dict[Any, int] = {np.uint8: 4, np.uint16: 1000, np.float32: 8}
"""The largest values of frames by dtype: no alpha brings them to white."""


def make_frame(chance: random.Random, dtypes: Sequence[Any] = tuple(LIMITS)) -> NDArray[Any]:
    dtype, size = chance.choice(dtypes), chance.choice(SIZES)
    limit = LIMITS[dtype]
    return np.array([chance.randrange(1, limit + 1) for _ in range(3 * size[0] * size[1])]).astype(dtype).reshape(*size, 3)


def picture(share: float, frame: NDArray[Any]) -> NDArray[Any]:
    """The frame at this share of the second member."""
    total = np.float32((FIRST + share * (SECOND - FIRST)).sum())
    return frames.from_network(total * frames.to_network(frame, SIGNATURE), frame, SIGNATURE)


@dataclass
class FrameSchedule:
    """Random refits and frames on two slots, each frame held against what must come out. Raises Caught with the seed.

    dtypes: of the frames; a network that adds its outputs up in another order is exact in float32 alone.
    """

    engine: Any
    gpu: FakeGpu
    dtypes: Sequence[Any] = tuple(LIMITS)
    shares: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def run(self, seed: int, calls: int = 8) -> None:
        chance = random.Random(seed)
        self.gpu.scheduler.reseed(seed)
        try:
            for slot in (0, 1):
                self.refit(slot, chance)
            for _ in range(calls):
                chance.choice((self.refit, self.render, self.render, self.infer))(chance.randrange(2), chance)
        except (Caught, EngineError) as error:
            raise Caught(f"schedule {seed}: {error}") from error
        if self.gpu.violations:
            raise Caught(f"schedule {seed}: {self.gpu.violations[0]}")

    def refit(self, slot: int, chance: random.Random) -> None:
        self.shares[slot] = chance.choice((0.0, 1.0, chance.randrange(1025) / 1024))
        self.engine.refit(slot, np.array([1 - self.shares[slot], self.shares[slot]]))

    def render(self, slot: int, chance: random.Random) -> None:
        frame = make_frame(chance, self.dtypes)
        compare(self.engine.render(slot, frame, SIGNATURE), picture(self.shares[slot], frame))

    def infer(self, slot: int, chance: random.Random) -> None:
        """The raw network shares its memory with frames."""
        frame = make_frame(chance, self.dtypes)
        y = self.engine.infer(slot, frames.to_network(frame, SIGNATURE))
        compare(frames.from_network(y, frame, SIGNATURE), picture(self.shares[slot], frame))


def compare(got: NDArray[Any], expected: NDArray[Any]) -> None:
    if got.dtype != expected.dtype or not np.array_equal(got, expected):
        raise Caught(f"a frame of {got.ravel()[:6]}... where it must be {expected.ravel()[:6]}...")
