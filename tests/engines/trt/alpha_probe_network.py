"""Tags: a tiny family whose output tells at which alpha each of its weights was, and schedules of calls that look at it.

Every weight is a 1x1 convolution of its own, with an output channel of its own. All numbers are small multiples of 1/1024, so
that blends and pictures are exact, and a frame of two alphas, of old weights or of memory that was not ready is another picture.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError
from engines.interface import BuildOptions, EngineOptions
from engines.profile import Profile
from tests.engines.conftest import write
from tests.engines.trt.conftest import engine_name
from tests.fakes.gpu import FakeGpu
from tests.support.handmade_graphs import Hand

WEIGHTS = 6
LARGEST = (1, 1, 4, 4)
SHAPES = ((1, 1, 1, 1), (1, 1, 2, 3), LARGEST)
FIRST = np.array([1 + index for index in range(WEIGHTS)], np.float64)
SECOND = np.array([2 + 3 * index for index in range(WEIGHTS)], np.float64)


def bundle(folder: Path) -> Bundle:
    """Two members: weight i is 1 + i in one and 2 + 3 i in the other."""
    hand = Hand(1)
    outputs = [hand.conv("x", 1, weight=f"tag{index}", bias=False, kernel=1) for index in range(WEIGHTS)]
    case = hand.case(hand.node("Concat", outputs, WEIGHTS, axis=1), name="tags")
    case.graph.opset_import[0].version = 17  # as 8.6 reads it; the operators are the same
    members = [
        {f"tag{index}.weight": np.full((1, 1, 1, 1), value, np.float32) for index, value in enumerate(values)}
        for values in (FIRST, SECOND)
    ]
    return write(replace(case, members=members), folder / "tags.dni")


def profile(of: Bundle) -> Profile:
    return Profile.from_shapes(of.signature, SHAPES[0], SHAPES[1], LARGEST)


def engine_class(kind: str, library: str = "tensorrt") -> Any:
    """The engine of a kind of plan: "refit", or a baseline's."""
    from dni_deploy.latency.baselines.tensorrt import TENSORRT_BASELINES
    from engines.trt.engine import REFIT_ENGINES

    return REFIT_ENGINES[library] if kind == "refit" else TENSORRT_BASELINES[f"{library}-{kind}"]


def build(of: Bundle, kind: str = "refit") -> None:
    from engines.trt.build import build_plan

    build_plan(of, BuildOptions(profile=profile(of)), None, engine_class(kind, engine_name()))


def open_engine(of: Bundle, kind: str, options: EngineOptions) -> Any:
    from engines.trt import load

    return load.open_engine(of, options, engine_class(kind, engine_name()))


def evaluate(inputs: dict[str, NDArray[Any]], weights: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What ONNX Runtime would compute, thirty times as fast."""
    known = {**inputs, **weights}
    column = np.concatenate([known[f"tag{index}.weight"].ravel() for index in range(WEIGHTS)])
    return {OUTPUT: column.reshape(1, WEIGHTS, 1, 1) * known["x"]}


def shapes(inputs: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    count, _, height, width = inputs["x"]
    return {OUTPUT: (count, WEIGHTS, height, width)}


OUTPUT = f"Concat_{WEIGHTS}"


Share = float | NDArray[np.float64]
"""Of the second member: one for all weights, or (WEIGHTS,)."""


def picture(share: Share, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """At this share of the second member, in float64 and exact."""
    return (FIRST + share * (SECOND - FIRST)).reshape(1, WEIGHTS, 1, 1) * x


class Caught(Exception):
    """Something that must never be, in one sentence."""


@dataclass
class Slot:
    """What is known of one slot: the alpha that it has (None: unusable), the input placed, the picture that fetch must give."""

    share: Share | None = None
    x: NDArray[np.float32] | None = None
    expected: NDArray[np.float64] | None = None


@dataclass
class Schedule:
    """Random calls on an engine, each held against what must come out. Raises Caught with the seed.

    by_row: every second change gives each weight a share of its own.
    """

    engine: Any
    gpu: FakeGpu
    fails: bool = True
    by_row: bool = True
    slots: list[Slot] = field(default_factory=lambda: [Slot(), Slot()])
    active: int = 0

    def run(self, seed: int, calls: int = 9, only: int | None = None) -> None:
        """only: on this slot, for schedules that run beside each other."""
        chance = random.Random(seed)
        if only is None:
            self.gpu.scheduler.reseed(seed)
        used = (0, 1) if only is None else (only,)
        try:
            for slot in used:
                self.refit(slot, chance)
                self.place(slot, chance)
            for _ in range(calls):
                action = chance.choice(self.actions(only is None))
                action(chance.choice(used), chance)
            for slot in used:
                self.infer(slot, chance)
        except (Caught, EngineError) as error:
            raise Caught(f"schedule {seed}: {error}") from error
        if self.gpu.violations:
            raise Caught(f"schedule {seed}: {self.gpu.violations[0]}")

    def actions(self, swaps: bool) -> list[Callable[[int, random.Random], None]]:
        return [
            self.refit, self.refit, self.place, self.place, self.enqueue, self.enqueue, self.fetch, self.infer, self.finish,
            *([self.swap] if swaps else []), *([self.broken_refit] if self.fails else []),
        ]  # fmt: skip

    def refit(self, slot: int, chance: random.Random) -> None:
        share: Share = chance.choice((0.0, 1.0, chance.randrange(1025) / 1024))
        if self.by_row and chance.random() < 0.5:
            share = np.array([chance.choice((0.0, 1.0, chance.randrange(1025) / 1024)) for _ in range(WEIGHTS)])
        self.engine.refit(slot, np.stack([1 - np.asarray(share), np.asarray(share)], axis=-1))
        self.slots[slot].share = share

    def broken_refit(self, slot: int, chance: random.Random) -> None:
        """It stops after k weights: an error, and no frame until a whole one succeeds."""
        self.gpu.trt.fail["refit"] = chance.randrange(WEIGHTS)
        self.slots[slot].share = None
        self.refused(lambda: self.engine.refit(slot, np.array([0.5, 0.5])), "a refit that failed")
        self.enqueue(slot, chance)

    def place(self, slot: int, chance: random.Random) -> None:
        self.slots[slot].x = self.x(chance)
        self.engine.upload(slot, self.slots[slot].x)

    def enqueue(self, slot: int, chance: random.Random) -> None:
        at = self.slots[slot]
        if at.share is None or at.x is None:
            self.refused(lambda: self.engine.enqueue(slot), "a frame on a slot that has no weights or input")
        else:
            self.engine.enqueue(slot)
            at.expected = picture(at.share, at.x)

    def fetch(self, slot: int, chance: random.Random) -> None:
        if self.slots[slot].expected is not None:
            self.compare(slot, self.engine.download(slot))

    def infer(self, slot: int, chance: random.Random) -> None:
        at, x = self.slots[slot], self.x(chance)
        if at.share is None:
            self.refused(lambda: self.engine.infer(slot, x), "a frame on a slot without weights")
            self.place(slot, chance)  # whether that x was placed is nobody's business
        else:
            at.x, at.expected = x, picture(at.share, x)
            self.compare(slot, self.engine.infer(slot, x))

    def finish(self, slot: int, chance: random.Random) -> None:
        self.engine.synchronize(slot)
        if self.gpu.scheduler.queues[self.engine.stream_handle(slot)].work and self.gpu.scheduler.chance is not None:
            raise Caught("finish came back and work of its slot is still queued")

    def swap(self, slot: int, chance: random.Random) -> None:
        """As a session does: refit the idle slot, perhaps wait, then make it the one that frames run on."""
        idle = 1 - self.active
        self.infer(self.active, chance)
        self.refit(idle, chance)
        if chance.random() < 0.5:
            self.finish(idle, chance)
        if chance.random() < 0.5:
            self.infer(self.active, chance)
        self.active = idle
        self.infer(self.active, chance)

    def x(self, chance: random.Random) -> NDArray[np.float32]:
        shape = chance.choice(SHAPES)
        values = [chance.randrange(1, 9) for _ in range(int(np.prod(shape)))]
        return np.array(values, np.float32).reshape(shape)

    def compare(self, slot: int, got: NDArray[np.float32]) -> None:
        expected = self.slots[slot].expected
        assert expected is not None
        if got.shape != expected.shape or not np.array_equal(got, expected):
            raise Caught(f"slot {slot} gave {got.ravel()[:6]}... where it must be {expected.ravel()[:6]}...")

    def refused(self, call: Callable[[], object], what: str) -> None:
        try:
            call()
        except EngineError:
            return
        raise Caught(f"{what} was not refused")
