"""InPlaceEngine: the weights change under a running session, and every output is that of the blend."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from dni_deploy.blending.blend import blend_float64
from dni_deploy.errors import EngineError
from dni_deploy.session.swap import SyncRefit
from engines import ort_session
from engines.onnxruntime_cpu import runtime
from engines.onnxruntime_cpu.engine import InPlaceEngine
from engines.onnxruntime_cpu.layout import find_layout
from engines.onnxruntime_cpu.lowering.passes import lower_for_cpu
from tests.dni_deploy.session.test_swap import TIMEOUT_S, WithoutSlots
from tests.engines.conftest import NAMES, Case, in_place
from tests.support.handmade_graphs import HAND, TAGS, tags
from tests.support.threads import run_writers_and_readers

TOLERANCE = 1e-5
"""Of the output's largest value: float32 sums in another order, 1e-7 to 2e-6 over these networks."""
WITH_INSTANCE_NORM = 2e-5
"""InstanceNorm divides by the spread of a channel, which over a handful of pixels may be a small number."""
HANDS = (
    "transposed_bn",
    "bn_first",
    "bn_after_grouped_conv",
    "shared_bn",
    "shared_single_prelu",
    "prelu_wild_slopes",
    "linear_bn",
    "upsampled_conv",
)


@pytest.fixture(params=[*NAMES, *HANDS])
def case(request: pytest.FixtureRequest, pico_case: Callable[[str], Case]) -> Case:
    return HAND[request.param]() if request.param in HAND else pico_case(request.param)


def test_outputs_are_those_of_a_fresh_session_with_the_blended_weights(case: Case) -> None:
    """Three members, two sizes, both slots."""
    engine = in_place(case)
    normalizes = any(node.op_type == "InstanceNormalization" for node in case.graph.graph.node)
    tolerance = WITH_INSTANCE_NORM if normalizes else TOLERANCE
    for slot, shares in enumerate(([0.2, 0.3, 0.5], [0.65, 0.0, 0.35])):
        engine.refit(slot, np.array(shares))
        stock = ort_session.open_cpu_session(
            ort_session.bind_initializers(case.graph, blend_float64(case.members, np.array(shares))), 1
        )
        for x in case.inputs():
            expected, got = ort_session.run_session(stock, x), engine.infer(slot, x)
            assert got.shape == expected.shape
            assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()
    engine.close()


def test_there_and_back_is_bit_identical(case: Case) -> None:
    """A -> B -> A, in one slot, and the other slot is not touched by it."""
    engine = in_place(case)
    x = case.inputs()[0]
    a, b = np.array([0.2, 0.3, 0.5]), np.array([0.7, 0.1, 0.2])
    engine.refit(0, a)
    engine.refit(1, b)
    first, other = engine.infer(0, x), engine.infer(1, x)
    assert not np.array_equal(first, other)
    engine.refit(0, b)
    np.testing.assert_array_equal(engine.infer(0, x), other)
    engine.refit(0, a)
    np.testing.assert_array_equal(engine.infer(0, x), first)
    np.testing.assert_array_equal(engine.infer(1, x), other)
    engine.close()


def test_ends_are_the_members_bit_for_bit(case: Case) -> None:
    """As the member comes out of an engine for it alone, out of one with another order, and out of constant weights."""
    engine, turned = in_place(case), in_place(case, case.members[::-1], slots=1)
    x = case.inputs()[1]
    for index, member in enumerate(case.members[:2]):
        engine.refit(index, np.eye(3)[index])
        got = engine.infer(index, x)
        alone = in_place(case, [member, member], slots=1)
        alone.refit(0, np.array([1.0, 0.0]))
        np.testing.assert_array_equal(got, alone.infer(0, x))
        turned.refit(0, np.eye(3)[2 - index])
        np.testing.assert_array_equal(got, turned.infer(0, x))
        constant = ort_session.create_session(
            ort_session.bind_initializers(alone.optimized, alone.weight_buffers[0].views), runtime.make_unoptimized_options()
        )
        np.testing.assert_array_equal(got, ort_session.run_session(constant, x))


def test_members_are_not_the_callers() -> None:
    """What the caller does to its tensors afterwards changes nothing."""
    case = HAND["conv_bn"]()
    engine = in_place(case)
    engine.refit(0, np.array([0.5, 0.5, 0.0]))
    x = case.inputs()[0]
    before = engine.infer(0, x)
    for member in case.members:
        for tensor in member.values():
            tensor[...] = 7
    engine.refit(0, np.array([0.5, 0.5, 0.0]))
    np.testing.assert_array_equal(engine.infer(0, x), before)


def test_the_layout_is_not_kept() -> None:
    """Its map is as large as a member."""
    case = HAND["conv_bn"]()
    lowered, recipes = lower_for_cpu(case.graph, case.weights)
    layout = find_layout(lowered, recipes)
    engine = InPlaceEngine(layout, recipes, case.members, threads=1, slots=1)
    shares = np.full((len(case.weights), 3), 1 / 3)
    engine.refit(0, shares)  # by tensor, which asks where each weight lies
    gather = weakref.ref(layout.gather)
    del layout
    gc.collect()
    assert gather() is None
    engine.close()


def test_a_slot_without_weights_refuses() -> None:
    case = HAND["conv_bn"]()
    engine = in_place(case)
    with pytest.raises(EngineError, match="Slot 0"):
        engine.infer(0, case.inputs()[0])
    engine.refit(0, np.eye(3)[0])
    engine.infer(0, case.inputs()[0])
    with pytest.raises(EngineError, match="Slot 1"):
        engine.infer(1, case.inputs()[0])


def test_a_failed_refit_leaves_the_slot_unusable_until_a_whole_one() -> None:
    case = HAND["conv_bn"]()
    engine = in_place(case)
    x = case.inputs()[0]
    good = np.array([0.5, 0.25, 0.25])
    for slot in (0, 1):
        engine.refit(slot, good)
    before = engine.infer(0, x)
    with pytest.raises(EngineError, match="variance"):
        engine.refit(0, np.array([9.0, -8.0, 0.0]))
    with pytest.raises(EngineError, match="refit it first"):
        engine.infer(0, x)
    np.testing.assert_array_equal(engine.infer(1, x), before)
    engine.refit(0, good)
    np.testing.assert_array_equal(engine.infer(0, x), before)


def test_an_input_that_does_not_fit_is_told() -> None:
    case = HAND["conv_bn"]()
    engine = in_place(case)
    engine.refit(0, np.eye(3)[0])
    with pytest.raises(EngineError, match=r"\(1, 5, 8, 8\)"):
        engine.infer(0, np.zeros((1, 5, 8, 8), np.float32))
    assert engine.infer(0, np.zeros((1, 3, 8, 8), np.float32)).shape == (1, 3, 8, 8)


def test_closing_twice() -> None:
    case = HAND["conv_bn"]()
    engine = in_place(case)
    engine.refit(0, np.eye(3)[0])
    engine.close()
    engine.close()
    with pytest.raises(EngineError):
        engine.infer(0, case.inputs()[0])
    engine.refit(0, np.eye(3)[0])
    with pytest.raises(EngineError, match="closed"):
        engine.infer(0, case.inputs()[0])


def test_outputs_are_fresh_arrays() -> None:
    case = HAND["conv_bn"]()
    engine = in_place(case)
    engine.refit(0, np.eye(3)[0])
    first, second = (engine.infer(0, case.inputs()[0]) for _ in range(2))
    assert not np.shares_memory(first, second)
    assert first.flags.writeable


def test_ten_thousand_changes_leave_no_trace() -> None:
    case = tags()
    engine = in_place(case, case.members[:2])
    x = np.ones((1, 1, 1, 1), np.float32)
    first = np.array([0.3, 0.7])
    engine.refit(0, first)
    before = engine.infer(0, x)
    for share in np.random.default_rng(1).random(10_000):
        engine.refit(0, np.array([share, 1 - share]))
    engine.refit(0, first)
    np.testing.assert_array_equal(engine.infer(0, x), before)


# ----- the tag model on ONNX Runtime's own threads (see tests/dni_deploy/session/test_swap.py)


def tag_model(
    design: Callable[..., SyncRefit[tuple[float, float]]], slots: int, changes: int, until_torn: bool = False
) -> tuple[int, int, int, list[BaseException]]:
    """Swaps, frames, torn frames and errors, while three threads change alpha and two make frames."""
    case = tags()
    engine = in_place(case, case.members[:2], slots=slots)
    swap = design(slots, lambda slot, shares: engine.refit(slot, np.array(shares)), (1.0, 0.0))
    x = np.ones((1, 1, 1, 1), np.float32)
    stop = threading.Event()
    errors: list[BaseException] = []
    counts = np.zeros((2, 2), np.int64)
    deadline = time.monotonic() + TIMEOUT_S

    def change(number: int) -> None:
        for share in np.random.default_rng(number).random(changes // 3).tolist():
            if stop.is_set():
                return
            swap.request((1 - share, share))
            time.sleep(2e-4)  # about a frame: most changes are then seen, and not overtaken by the next one

    def frames(number: int) -> None:
        try:
            while not stop.is_set() and time.monotonic() < deadline:
                with swap.hold_current() as live:
                    y = engine.infer(live.slot, x).reshape(-1)
                torn = not (y == np.float32(live.value[1])).all()
                assert y.size == TAGS
                counts[number] += (1, torn)
                if torn and until_torn:
                    stop.set()
        except BaseException as error:
            errors.append(error)

    writers, readers = [partial(change, number) for number in range(3)], [partial(frames, number) for number in range(2)]
    run_writers_and_readers(writers, readers, stop, TIMEOUT_S)
    with swap.hold_current() as live:  # what was asked for last is shown
        assert live.value is swap.requested_value
        if not until_torn:
            assert (engine.infer(live.slot, x) == np.float32(live.value[1])).all()
    engine.close()
    return swap.generation - 1, int(counts[:, 0].sum()), int(counts[:, 1].sum()), errors


@pytest.mark.usefixtures("nervous")
@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("changes", [9_999, pytest.param(60_000, marks=pytest.mark.slow)])
def test_no_frame_is_torn(slots: int, changes: int, record_property: Callable[[str, object], None]) -> None:
    swaps, frames, torn, errors = tag_model(SyncRefit, slots, changes)
    record_property("swaps, frames, torn", str((swaps, frames, torn)))
    assert not errors
    assert torn == 0
    assert swaps > 100
    assert frames > swaps // 2


@pytest.mark.usefixtures("nervous")
def test_a_swap_without_slots_is_caught(record_property: Callable[[str, object], None]) -> None:
    swaps, frames, torn, errors = tag_model(WithoutSlots, 1, 60_000, until_torn=True)
    record_property("swaps, frames, torn", str((swaps, frames, torn)))
    assert not errors
    assert torn > 0
