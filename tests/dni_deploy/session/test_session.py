"""Session: alpha is checked when it is set and used by the next frame, and a frame is the network's output."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import dni_deploy
from dni_deploy.alpha.coefficients import Alpha, Coefficients
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import BundleError, CoefficientsError, EngineError, UsageError
from dni_deploy.imaging.frames import Frame, from_network, to_network
from dni_deploy.session.session import Session, open_session
from dni_deploy.signature import Signature
from engines.interface import EngineOptions
from engines.registry import EngineChoice, OpenedEngine
from tests.engines.conftest import write
from tests.support.frame_session import Dimmer
from tests.support.handmade_graphs import HAND
from tests.support.threads import run_writers_and_readers

TIMEOUT_S = 20.0
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Members a, b, c of a convolution, a BatchNorm and a convolution, 3 channels to 3."""
    return write(HAND["conv_bn"](), tmp_path_factory.mktemp("session") / "x.dni", 3)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write(HAND["conv_bn"](), tmp_path_factory.mktemp("session") / "pair.dni", 2)


@pytest.fixture
def session(bundle: Bundle) -> Iterator[Session]:
    with open_session(bundle, threads=1) as opened_session:
        yield opened_session


def frame(height: int = 12, width: int = 17, seed: int = 0) -> Frame:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def array(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).random(shape, np.float32)


def dimmer(*factors: float, **options: Any) -> tuple[Session, Dimmer]:
    """Opens a session whose network multiplies by the blend of these factors, members a, b, ..."""
    engine = Dimmer(factors, **options)
    members = tuple("abcdefgh"[: len(factors)])
    return Session(engine, members, Signature(radius=0), Coefficients.one_hot("a", members)), engine


# ----- alpha


@pytest.mark.parametrize(
    ("alpha", "coefficients"),
    [
        ({"a": 0.2, "c": 0.8}, (0.2, 0.0, 0.8)),
        ("b=0.35,c=0.65", (0.0, 0.35, 0.65)),
        ("0.2, 0.3, 0.5", (0.2, 0.3, 0.5)),
        ([0.2, 0.3, 0.5], (0.2, 0.3, 0.5)),
        (np.array([0.0, 1.0, 0.0]), (0.0, 1.0, 0.0)),
        (Coefficients(("a", "b", "c"), (0.25, 0.25, 0.5)), (0.25, 0.25, 0.5)),
    ],
)
def test_alpha_is_accepted_in_every_form(session: Session, alpha: Alpha, coefficients: tuple[float, ...]) -> None:
    session.alpha = alpha
    assert session.alpha == Coefficients(("a", "b", "c"), coefficients)
    assert session.render(frame()).coefficients.values == coefficients


def test_one_number_is_the_coefficient_of_the_first_member(pair: Bundle) -> None:
    with open_session(pair, alpha=0.35, threads=1) as session:
        assert session.alpha.values == (0.35, 0.65)
        session.alpha = "0.25"
        assert session.render(frame()).coefficients.values == (0.25, 0.75)


@pytest.mark.parametrize(
    "alpha",
    [
        0.5, "0.5", [0.5, 0.5], {"d": 1.0}, {}, "a=0.5,b=0.6,c=0.1", [1.2, -0.2, 0.0], [float("nan"), 0.5, 0.5], "a=inf", "", None,
        [2.0, 0.0, 0.0], Coefficients(("a", "b"), (0.5, 0.5)), "a=0.5,0.25,0.25", np.eye(3),
    ],
)  # fmt: skip
def test_a_refused_alpha_leaves_the_previous_one(session: Session, alpha: Any) -> None:
    session.alpha = "0.2,0.3,0.5"
    before = session.render(frame())
    with pytest.raises(CoefficientsError):
        session.alpha = alpha
    after = session.render(frame())
    assert session.alpha.values == after.coefficients.values == (0.2, 0.3, 0.5)
    assert after.generation == before.generation
    np.testing.assert_array_equal(after.output, before.output)


def test_the_default_is_the_first_member_alone(session: Session) -> None:
    assert session.members == ("a", "b", "c")
    assert session.alpha.values == (1.0, 0.0, 0.0)
    assert session.generation == 1


def test_alpha_arrays_are_copied(session: Session) -> None:
    alpha = [0.2, 0.3, 0.5]
    session.alpha = alpha
    alpha[:] = [9.0, 9.0, 9.0]
    assert session.render(frame()).coefficients.values == (0.2, 0.3, 0.5)


def test_next_frame_uses_the_new_alpha_and_generations_count_blends(session: Session) -> None:
    x = frame()
    outputs = {}
    for number, coefficient in enumerate((0.0, 0.25, 0.5, 1.0), 2):
        session.alpha = [coefficient, 1 - coefficient, 0.0]
        assert session.generation == number - 1  # nothing is blended before a frame needs it
        stamped = session.render(x)
        assert (stamped.generation, stamped.coefficients.values) == (number, (coefficient, 1 - coefficient, 0.0))
        outputs[coefficient] = stamped.output
    assert len({output.tobytes() for output in outputs.values()}) == 4
    session.alpha = [0.25, 0.75, 0.0]
    np.testing.assert_array_equal(session(x), outputs[0.25])  # A -> B -> A


def test_setting_the_same_alpha_again_costs_no_refit(session: Session) -> None:
    session.alpha = [0.5, 0.5, 0.0]
    session(frame())
    generation = session.generation
    session.alpha = "a=0.5,b=0.5"
    session(frame())
    assert session.generation == generation


def test_the_last_value_set_between_two_frames_counts() -> None:
    session, engine = dimmer(0.0, 1.0)
    for coefficient in np.linspace(0, 1, 101):
        session.alpha = float(coefficient)
    assert engine.refits == 1
    assert session.render(frame()).coefficients.values == (1.0, 0.0)
    assert engine.refits == 2
    assert session.change_seconds >= 0


# ----- frames


@pytest.mark.parametrize("size", [(12, 17), (1, 1), (40, 33)])
def test_a_frame_is_the_network_output_rounded_once(session: Session, size: tuple[int, int]) -> None:
    x = frame(*size)
    session.alpha = [0.2, 0.3, 0.5]
    expected = from_network(session.infer(to_network(x, session.signature)), x, session.signature)
    actual = session(x)
    assert actual.shape == (*size, 3)
    assert actual.dtype == np.uint8
    np.testing.assert_array_equal(actual, expected)


def test_a_frame_rounds_half_to_even_and_clamps() -> None:
    session, _ = dimmer(0.5, 4.0)
    x = np.array([[[1, 2, 3], [5, 7, 255]]], np.uint8)
    assert session(x).tolist() == [[[0, 1, 2], [2, 4, 128]]]  # 0.5, 1, 1.5, 2.5, 3.5, 127.5
    session.alpha = 0.0
    assert session(x).tolist() == [[[4, 8, 12], [20, 28, 255]]]


def test_outputs_belong_to_the_caller(session: Session) -> None:
    x = frame()
    first = session(x)
    copied = first.copy()
    second = session(x)
    first[:] = 0
    np.testing.assert_array_equal(second, copied)


def test_a_nan_output_is_an_error_and_not_a_frame() -> None:
    session, _ = dimmer(0.5, 1.0, broken=17)
    with pytest.raises(EngineError, match="NaN"):
        session(frame(12, 17))
    assert session(frame(12, 16)).shape == (12, 16, 3)  # and the session remains usable


@pytest.mark.parametrize(
    "wrong", [None, [[1]], np.zeros((4, 4, 3), np.float64), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_arrays_that_are_not_frames_are_refused(session: Session, wrong: Any) -> None:
    with pytest.raises(UsageError, match="frame is a uint8, uint16 or float32 array"):
        session(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        None, [[[[0.0]]]], np.zeros((1, 3, 4, 4)), np.zeros((3, 4, 4), np.float32), np.zeros((1, 3, 0, 4), np.float32),
        np.zeros((1, 2, 4, 4), np.float32),
    ],
)  # fmt: skip
def test_frames_that_the_network_cannot_take_are_refused(session: Session, wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"float32 array|takes 3 channels"):
        session.infer(wrong)


def test_infer_takes_batches_and_arrays_of_any_strides(session: Session) -> None:
    x = array(2, 3, 10, 14)
    y = session.infer(x)
    assert y.shape == (2, 3, 10, 14)
    channels_last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(session.infer(channels_last), y)


# ----- failures


class Fragile(Dimmer):
    """An engine that refuses the coefficients in `refused`."""

    refused: tuple[float, ...] = ()

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        self.set[slot] = float("nan")
        if coefficients[0] in self.refused:
            raise EngineError("no")
        super().refit(slot, coefficients)


@pytest.mark.parametrize("slots", [1, 2])
def test_an_alpha_that_the_engine_refuses_leaves_the_previous_one(slots: int) -> None:
    engine = Fragile((0.5, 1.0))
    engine.slots, engine.refused = slots, (0.25,)
    session = Session(engine, ("a", "b"), Signature(radius=0), Coefficients(("a", "b"), (1.0, 0.0)))
    before = session(frame())
    session.alpha = 0.25
    with pytest.raises(EngineError, match="no"):
        session(frame())
    assert session.alpha.values == (1.0, 0.0)
    np.testing.assert_array_equal(session(frame()), before)
    session.alpha = 0.5
    assert session.render(frame()).coefficients.values == (0.5, 0.5)


def test_a_first_alpha_that_the_engine_refuses_closes_the_engine(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Fragile((0.5, 1.0, 2.0))
    engine.refused = (1.0,)
    monkeypatch.setattr(
        "dni_deploy.session.session.open_engine", lambda *arguments: OpenedEngine(engine, EngineChoice("fragile", "asked for"))
    )
    with pytest.raises(EngineError, match="no"):
        open_session(bundle)
    assert engine.closed == 1


def test_a_closed_session_refuses_every_call(bundle: Bundle) -> None:
    session = open_session(bundle, threads=1)
    session(frame())
    session.close()
    session.close()
    with pytest.raises(EngineError, match="closed"):
        session(frame())
    with pytest.raises(EngineError, match="closed"):
        session.infer(array(1, 3, 8, 8))
    with pytest.raises(EngineError, match="closed"), session:
        session(frame())


def test_the_context_closes_after_an_error_too() -> None:
    session, engine = dimmer(0.5, 1.0)
    with pytest.raises(ZeroDivisionError), session:
        _ = 1 / 0
    assert engine.closed == 1


def test_a_forgotten_session_closes_its_engine() -> None:
    session, engine = dimmer(0.5, 1.0)
    session(frame())
    del session
    gc.collect()
    assert engine.closed == 1


def test_an_open_session_does_not_stop_the_program_from_exiting(tmp_path: Path) -> None:
    code = (
        "from tests.dni_deploy.session.test_session import Dimmer, Session, Signature, Coefficients\n"
        "class Closing(Dimmer):\n    def close(self): print('closed', flush=True)\n"
        "first = Coefficients.one_hot('a', ('a', 'b'))\n"
        "plain = Session(Closing((0.5, 1.0)), ('a', 'b'), Signature(radius=0), first)\n"
        "ahead = Session(Closing((0.5, 1.0)), ('a', 'b'), Signature(radius=0), first, async_refit=True)\n"
        "ahead.alpha = 0.5"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (process.returncode, process.stdout, process.stderr) == (0, "closed\nclosed\n", "")


@pytest.mark.parametrize("options", [{"slots": 0}, {"slots": -1}, {"threads": -1}, {"slots": 1.5}, {"threads": "2"}])
def test_invalid_options_are_refused(bundle: Bundle, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        open_session(bundle, **options)


def test_opening_a_folder_without_a_bundle_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        open_session(tmp_path / "nothing.dni")


def test_opening_by_path_and_from_the_top_level_package(bundle: Bundle) -> None:
    with dni_deploy.open_session(str(bundle.path), alpha="b=1", threads=1, slots=1) as session:
        assert session.render(frame()).coefficients.values == (0.0, 1.0, 0.0)
        assert session.engine.slots == 1


# ----- extrapolation


def test_extrapolation_must_be_enabled(pair: Bundle) -> None:
    with open_session(pair, threads=1) as session, pytest.raises(CoefficientsError, match="outside 0 to 1"):
        session.alpha = 1.1


def test_variance_guard_refuses_a_variance_that_is_not_positive(pair: Bundle) -> None:
    with open_session(pair, threads=1, extrapolate=True) as session:
        session.alpha = 1.01
        assert session.render(frame()).coefficients.values == (1.01, pytest.approx(-0.01))
        before = session(frame())
        with pytest.raises(CoefficientsError, match=r"running_var.*between"):
            session.alpha = 50.0
        assert session.alpha.values[0] == 1.01
        np.testing.assert_array_equal(session(frame()), before)
    with pytest.raises(CoefficientsError, match="running_var"):
        open_session(pair, alpha=-50.0, extrapolate=True)


# ----- threads


def test_stamps_match_frames_while_threads_change_alpha() -> None:
    """Each output equals that of its stamp, generations never decrease, and the last alpha is applied."""
    session, _ = dimmer(0.0, 1.0)
    x = np.full((4, 4, 3), 200, np.uint8)
    stop, wrong = threading.Event(), list[object]()
    deadline = time.monotonic() + TIMEOUT_S

    def look() -> None:
        newest = 0
        while not stop.is_set() and time.monotonic() < deadline:
            stamped = session.render(x)
            expected = np.rint(np.float32(200) / np.float32(255) * np.float32(stamped.coefficients.values[1]) * 255)
            if stamped.generation < newest or (stamped.output != expected).any():
                wrong.append(stamped)
            newest = stamped.generation

    def slide(seed: int) -> None:
        for step in np.random.default_rng(seed).integers(0, 41, 1000):
            session.alpha = 1 - step / 40  # 200 * step / 40 = 5 * step: exact, without rounding

    run_writers_and_readers([partial(slide, seed) for seed in range(3)], [look] * 2, stop, TIMEOUT_S)
    assert not wrong
    session.alpha = 0.25
    assert (session(x) == 150).all()


def test_many_threads_can_render_on_one_engine(session: Session) -> None:
    """The same frame at the same alpha gives the same output in every thread."""
    x = frame(20, 20)
    alphas = [[coefficient, 1 - coefficient, 0.0] for coefficient in (0.0, 0.25, 0.5, 1.0)]
    expected = {}
    for alpha in alphas:
        session.alpha = alpha
        expected[tuple(alpha)] = session(x).tobytes()
    wrong = []

    def work(seed: int) -> None:
        for number in np.random.default_rng(seed).integers(0, 4, 50):
            session.alpha = alphas[number]
            stamped = session.render(x)
            if stamped.output.tobytes() != expected[stamped.coefficients.values]:
                wrong.append(stamped)

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()
    assert not wrong


# ----- asynchronous refit


class Slow(Dimmer):
    """Its refit is queued and completes only on `finish`, as on a GPU."""

    def __init__(self, *factors: float) -> None:
        super().__init__(factors)
        self.queued: dict[int, float] = {}
        self.go = threading.Event()
        self.go.set()
        self.order: list[str] = []

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        self.queued[slot] = float(coefficients @ self.factors)
        self.refits += 1

    def synchronize(self, slot: int) -> None:
        assert self.go.wait(TIMEOUT_S)
        self.set[slot] = self.queued.get(slot, self.set[slot])
        self.order.append("finish")

    def close(self) -> None:
        self.order.append("close")
        super().close()


def slow_ahead() -> tuple[Session, Slow]:
    engine = Slow(0.0, 1.0)
    return Session(engine, ("a", "b"), Signature(radius=0), Coefficients(("a", "b"), (0.0, 1.0)), async_refit=True), engine


def test_async_no_frame_waits_and_the_new_value_is_used_when_ready() -> None:
    session, engine = slow_ahead()
    with session:
        x = np.full((4, 4, 3), 200, np.uint8)
        engine.go.clear()
        session.alpha = 0.5
        for _ in range(3):
            stamped = session.render(x)
            assert (stamped.generation, stamped.coefficients.values) == (1, (0.0, 1.0))
            assert (stamped.output == 200).all()
        assert session.alpha.values == (0.5, 0.5)  # the last value set, although no frame uses it yet
        assert not session.wait_until_applied(0.01)
        engine.go.set()
        assert session.wait_until_applied(TIMEOUT_S)
        stamped = session.render(x)
        assert (stamped.generation, stamped.coefficients.values) == (2, (0.5, 0.5))
        assert (stamped.output == 100).all()
        assert session.change_seconds > 0


def test_async_a_refused_alpha_is_raised_once_by_the_next_frame() -> None:
    engine = Fragile((0.5, 1.0))
    engine.refused = (0.25,)
    with Session(engine, ("a", "b"), Signature(radius=0), Coefficients(("a", "b"), (1.0, 0.0)), async_refit=True) as session:
        before = session(frame())
        session.alpha = 0.25
        with pytest.raises(EngineError, match="no"):
            session.wait_until_applied(TIMEOUT_S)
        assert session.alpha.values == (1.0, 0.0)
        np.testing.assert_array_equal(session(frame()), before)
        session.alpha = 0.5
        assert session.wait_until_applied(TIMEOUT_S)
        assert session.render(frame()).coefficients.values == (0.5, 0.5)


def test_async_the_refit_ends_before_the_engine_is_closed() -> None:
    session, engine = slow_ahead()
    engine.order.clear()
    engine.go.clear()
    session.alpha = 0.5
    timer = threading.Timer(0.1, engine.go.set)
    timer.start()
    while engine.refits < 2:
        time.sleep(0.001)
    session.close()
    session.close()
    assert engine.order == ["finish", "close"]
    with pytest.raises(EngineError, match="closed"):
        session(frame())
    with pytest.raises(EngineError, match="closed"):
        session.wait_until_applied()


def test_async_refit_needs_two_slots(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="2 slots"):
        open_session(bundle, async_refit=True, slots=1)
    engine = Dimmer((0.5, 1.0, 2.0))
    engine.slots = 1  # whatever was requested
    engine_options: list[EngineOptions] = []

    def open_engine(bundle: Bundle, name: str, options: EngineOptions) -> OpenedEngine:
        engine_options.append(options)
        return OpenedEngine(engine, EngineChoice("dimmer", "asked for"))

    monkeypatch.setattr("dni_deploy.session.session.open_engine", open_engine)
    with pytest.raises(UsageError, match="2 sets of weights"):
        open_session(bundle, async_refit=True, precision="fp16", cuda_graph=True, device=3)
    assert engine_options == [EngineOptions(slots=2, precision="fp16", cuda_graph=True, device=3)]
    assert engine.closed == 1


def test_async_refit_gives_the_same_frames(bundle: Bundle) -> None:
    x = frame()
    with open_session(bundle, threads=1) as plain, open_session(bundle, threads=1, async_refit=True) as ahead:
        assert ahead.engine_reason == plain.engine_reason != ""
        for coefficients in ([0.2, 0.3, 0.5], [0.0, 1.0, 0.0], [0.2, 0.3, 0.5]):
            plain.alpha = ahead.alpha = coefficients
            assert plain.wait_until_applied()
            assert ahead.wait_until_applied(TIMEOUT_S)
            np.testing.assert_array_equal(ahead(x), plain(x))


def test_async_stamps_match_frames_while_threads_change_alpha() -> None:
    session, _ = slow_ahead()
    x = np.full((4, 4, 3), 200, np.uint8)
    stop, wrong = threading.Event(), list[object]()

    def look() -> None:
        newest = 0
        while not stop.is_set():
            stamped = session.render(x)
            expected = np.rint(np.float32(200) / np.float32(255) * np.float32(stamped.coefficients.values[1]) * 255)
            if stamped.generation < newest or (stamped.output != expected).any():
                wrong.append(stamped)
            newest = stamped.generation

    def slide(seed: int) -> None:
        for step in np.random.default_rng(seed).integers(0, 41, 500):
            session.alpha = 1 - step / 40

    threads = [threading.Thread(target=look, daemon=True) for _ in range(2)]
    writers = [threading.Thread(target=slide, args=(seed,), daemon=True) for seed in range(3)]
    for thread in (*threads, *writers):
        thread.start()
    for thread in writers:
        thread.join(TIMEOUT_S)
    assert session.wait_until_applied(TIMEOUT_S)
    stop.set()
    for thread in (*threads, *writers):
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()
    assert not wrong
    session.alpha = 0.25
    assert session.wait_until_applied(TIMEOUT_S)
    assert (session(x) == 150).all()
    session.close()


def test_after_settle_the_next_frame_does_not_wait() -> None:
    engine = Slow(0.0, 1.0)
    session = Session(engine, ("a", "b"), Signature(radius=0), Coefficients(("a", "b"), (0.0, 1.0)))
    session.alpha = 0.5
    assert engine.order == []
    assert session.wait_until_applied()
    assert engine.order == ["finish"]
    assert session.generation == 2


def test_log_has_the_engine_the_opening_time_and_each_refit(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "dni_deploy"), open_session(bundle, engine="onnxruntime", threads=1) as session:
        session.alpha = [0.25, 0.25, 0.5]
        session.wait_until_applied()
    records = [record for record in caplog.records if record.name == "dni_deploy.session.session"]
    messages = [record.getMessage() for record in records if record.levelname == "INFO"]
    assert len(messages) == 1
    assert messages[0].startswith("session opened in ")
    assert "engine onnxruntime (asked for)" in messages[0]
    changes = [record.getMessage() for record in records if record.levelname == "DEBUG"]
    assert "a=0.25" in changes[-1].replace(" ", "")
    assert changes[-1].endswith(" ms")


def test_frames_log_nothing_at_info(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "dni_deploy"):
        session.alpha = [0.5, 0.25, 0.25]
        session(frame())
    assert not caplog.messages


class OnDevice(Dimmer):
    """Gives back what it is given, as a GPU engine does with frames in its memory."""

    def render(self, slot: int, frame: Any, signature: Signature) -> Any:
        return frame


class DeviceFrame:
    """An array in device memory."""

    def __init__(self) -> None:
        self.__cuda_array_interface__: dict[str, Any] = {}


def test_frames_in_device_memory_go_to_the_engine_as_they_are() -> None:
    frame = DeviceFrame()
    engine = OnDevice((1.0,))
    with Session(engine, ("a",), Signature(radius=0), Coefficients.one_hot("a", ("a",))) as session:
        assert session.render(frame).output is frame  # type: ignore[arg-type]
        assert session.submit(frame).result(TIMEOUT_S).output is frame  # type: ignore[arg-type]


def test_an_engine_on_the_cpu_refuses_frames_in_device_memory(session: Session) -> None:
    with pytest.raises(UsageError, match="got DeviceFrame"):
        session(DeviceFrame())  # type: ignore[arg-type]


# ----- what a mistake gets


def test_an_unknown_attribute_is_an_error_and_not_a_slider_that_does_nothing(session: Session) -> None:
    with pytest.raises(AttributeError, match="alfa"):
        session.alfa = 0.3  # type: ignore[attr-defined]


def test_a_closed_session_takes_no_settings(bundle: Bundle) -> None:
    session = open_session(bundle, threads=1)
    session.close()
    with pytest.raises(EngineError, match="closed"):
        session.alpha = [0, 1, 0]
    with pytest.raises(EngineError, match="closed"):
        session.rules = ["norm:*=1,0,0"]
    assert session.alpha.values == (1.0, 0.0, 0.0)


def test_a_session_cannot_be_pickled(session: Session) -> None:
    with pytest.raises(UsageError, match="open one in each process"):
        pickle.dumps(session)


def test_a_bundle_is_shown_in_one_line_and_can_be_pickled(bundle: Bundle) -> None:
    assert repr(bundle).endswith("x.dni: a, b, c of hand>")
    assert pickle.loads(pickle.dumps(bundle)) == bundle


# ----- images of Pillow, and transparency


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_frame_with_transparency_keeps_it(session: Session, dtype: type) -> None:
    white = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[dtype]
    rgba = (np.random.default_rng(1).random((9, 11, 4)) * white).astype(dtype)
    rgba[..., 3][:, :6] = white
    rgba[2:5, 7:, 3] = 0
    output = session(rgba)
    assert output.dtype == dtype
    assert np.array_equal(output[..., 3], rgba[..., 3])
    hidden = rgba[..., 3] == 0
    other = rgba.copy()
    other[hidden, :3] = white
    assert np.array_equal(session.submit(other).result().output[~hidden], output[~hidden])
    opaque = rgba.copy()
    opaque[..., 3] = white
    assert np.array_equal(session(opaque)[..., :3], session(np.ascontiguousarray(rgba[..., :3])))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1", "CMYK"])
def test_an_image_of_pillow_is_taken(session: Session, mode: str) -> None:
    image = Image.fromarray(frame()).convert(mode)
    expected = np.asarray(image.convert("RGBA" if mode in ("RGBA", "LA") else "RGB"))
    output = session(image)
    assert np.array_equal(output, session(expected))
    assert output.shape == expected.shape


def test_a_16_bit_gray_image_of_pillow_keeps_its_depth(session: Session) -> None:
    gray = np.random.default_rng(0).integers(0, 65536, (12, 17), dtype=np.uint16)
    assert np.array_equal(session(Image.fromarray(gray)), session(np.dstack([gray] * 3)))
    with pytest.raises(UsageError, match="white level"):
        session(Image.fromarray(gray.astype(np.float32)))
