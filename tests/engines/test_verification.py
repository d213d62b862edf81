"""Verify: engines that compute something else are caught, each in a way that was seen in the wild; sound ones pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dni_deploy.blending.blend import blend_float64
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError
from dni_deploy.signature import Signature
from engines import ort_session
from engines.calibrated_network import read_network
from engines.profile import Profile
from engines.registry import load_engine
from engines.verification import (
    MAX_RELATIVE_ERROR,
    SAMPLE_COUNT,
    Reference,
    choose_verification_shape,
    mixed_coefficients,
    sample_output,
    verify_at,
    verify_members,
    verify_mixed,
)
from tests.engines.conftest import write
from tests.engines.trt.conftest import bn, build, engine_name, everywhere, numpy_1, profile  # noqa: F401
from tests.fakes.gpu import FakeGpu

Shares = NDArray[np.float64]
Picture = NDArray[np.float32]


class Stub:
    """An engine of ONNX Runtime sessions; `weights(members, shares, history)` says what it computes with."""

    name, update_path, slots = "stub", "", 2

    def __init__(self, bundle: Bundle, weights: Callable[[list[Any], Shares, list[Shares]], dict[str, Any]]) -> None:
        self.bundle, self.weights = bundle, weights
        self.members = [bundle.read_weights(name) for name in bundle.members]
        self.history: list[Shares] = []
        self.sessions: dict[int, Any] = {}

    def refit(self, slot: int, coefficients: Shares) -> None:
        values = self.weights(self.members, coefficients, self.history)
        self.sessions[slot] = ort_session.open_cpu_session(self.bundle.read_graph_with_weights(values))
        self.history.append(coefficients)

    def infer(self, slot: int, x: Picture) -> Picture:
        return ort_session.run_session(self.sessions[slot], x)

    def synchronize(self, slot: int) -> None: ...

    def close(self) -> None: ...


def sound(members: list[Any], shares: Shares, history: list[Shares]) -> dict[str, Any]:
    return blend_float64(members, shares)


def constant(members: list[Any], shares: Shares, history: list[Shares]) -> dict[str, Any]:
    """The slider that does nothing."""
    return dict(members[0])


def dropped_bias(members: list[Any], shares: Shares, history: list[Shares]) -> dict[str, Any]:
    """TensorRT 11.3: a bias is treated as zero."""
    values = blend_float64(members, shares)
    return {**values, "conv7.bias": values["conv7.bias"] * 0}


def stays_behind(members: list[Any], shares: Shares, history: list[Shares]) -> dict[str, Any]:
    """TensorRT issue 3628: after A -> B -> A a little of B is left; too little for the tolerance."""
    values = blend_float64(members, shares)
    rest = 1e-6 if history and shares[0] == 1.0 else 0.0
    return {**values, "conv7.bias": values["conv7.bias"] + rest}


def ends_only(members: list[Any], shares: Shares, history: list[Shares]) -> dict[str, Any]:
    """Right at each member, wrong in between: BatchNorm folded before it is blended."""
    values = blend_float64(members, shares)
    scales = [m["bn2.weight"] / np.sqrt(m["bn2.running_var"].astype(np.float64) + 1e-5) for m in members]
    blended = sum(share * scale for share, scale in zip(shares, scales, strict=True))
    return {**values, "bn2.weight": blended * np.sqrt(values["bn2.running_var"] + 1e-5)}


def verify_sample(engine: Any, reference: Reference, precision: str) -> float:
    """Against what a plan keeps of the expected output."""
    return verify_at(
        engine, mixed_coefficients(3), reference, precision, sample_output(reference.compute_reference(mixed_coefficients(3)))
    )


def reference(bundle: Bundle) -> Reference:
    return Reference(read_network(bundle), [bundle.read_weights(name) for name in bundle.members], profile(bundle))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write(bn(), tmp_path / "bn.dni", members=3)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_sound_engine_passes(precision: str, bundle: Bundle) -> None:
    assert verify_members(Stub(bundle, sound), reference(bundle), precision) == 0.0
    engine = Stub(bundle, sound)
    assert verify_mixed(engine, reference(bundle), precision) == 0.0
    assert len(engine.history) == engine.slots


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("weights", [constant, dropped_bias, ends_only])
def test_another_picture(weights: Any, precision: str, bundle: Bundle) -> None:
    for verify in (verify_members, verify_mixed, verify_sample):
        with pytest.raises(EngineError, match=r"another output at .* than ONNX Runtime"):
            verify(Stub(bundle, weights), reference(bundle), precision)


def test_a_sample_is_small_and_spread() -> None:
    whole = np.arange(100_000, dtype=np.float32)
    some = sample_output(whole.reshape(1, 1, 100, 1000))
    assert SAMPLE_COUNT / 2 < some.size <= SAMPLE_COUNT
    assert (some[0], some[-1]) == (0, pytest.approx(whole[-1], rel=1e-3))
    assert np.array_equal(sample_output(whole[:77]), whole[:77])


def test_another_shape_than_the_sample(bundle: Bundle) -> None:
    wrong = np.zeros(5, np.float32)
    with pytest.raises(EngineError, match="another output"):
        verify_at(Stub(bundle, sound), mixed_coefficients(3), reference(bundle), "fp32", wrong)


def test_what_stays_behind(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=r"a gives other bits .* stayed behind"):
        verify_members(Stub(bundle, stays_behind), reference(bundle), "fp32")


def test_the_first_member_alone(bundle: Bundle) -> None:
    assert verify_at(Stub(bundle, constant), np.eye(3)[0], reference(bundle), "fp32") == 0.0


def test_pixels_that_are_no_numbers(bundle: Bundle) -> None:
    engine = Stub(bundle, sound)
    engine.infer = lambda slot, x: np.full_like(x, np.nan)  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="differs by inf"):
        verify_mixed(engine, reference(bundle), "fp16")


def test_float16_must_be_good_on_the_average_too(bundle: Bundle) -> None:
    """Every pixel off by 0.4 % is within the tolerance of one, and 48 dB."""
    engine = Stub(bundle, sound)
    plain = Stub.infer
    engine.infer = lambda slot, x: plain(engine, slot, x) + np.float32(0.004) * np.abs(plain(engine, slot, x)).max()  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="48 dB"):
        verify_mixed(engine, reference(bundle), "fp16")
    assert MAX_RELATIVE_ERROR["fp16"] > 0.004


@pytest.mark.parametrize(("pixels", "passes"), [(10_000, True), (100, False)])
def test_a_float16_pixel_may_err_where_all_do(pixels: int, passes: bool, bundle: Bundle) -> None:
    """The worst one by 8e-3: among noise of 58 dB it is rounding; alone in the picture it is a mistake."""
    engine = Stub(bundle, sound)
    plain = Stub.infer

    def noisy(slot: int, x: Picture) -> Picture:
        output = plain(engine, slot, x)
        random = np.random.default_rng(0)
        noise = np.zeros(output.size, np.float32)
        noise[:pixels] = np.clip(random.standard_normal(noise[:pixels].size) * 1.26e-3, -4e-3, 4e-3)
        noise[0] = 8e-3
        return output + noise.reshape(output.shape) * np.abs(output).max()

    engine.infer = noisy  # type: ignore[method-assign]
    if passes:
        assert verify_mixed(engine, reference(bundle), "fp16") == pytest.approx(8e-3, rel=0.02)
    else:
        with pytest.raises(EngineError, match="another output"):
            verify_mixed(engine, reference(bundle), "fp16")


@everywhere
def test_two_weights_in_each_others_place(bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same size and type: nothing but the picture is wrong."""
    from engines.cuda.layout import DeviceLayout

    build(bundle)
    real = DeviceLayout.offset_of
    other = {"conv0.bias": "prelu3.weight", "prelu3.weight": "conv0.bias"}
    monkeypatch.setattr(DeviceLayout, "offset_of", lambda self, name: real(self, other.get(name, name)))
    with pytest.raises(EngineError, match="another output"):
        load_engine(bundle, engine_name())


def test_the_probe_is_small_and_within_the_profile() -> None:
    def shape(smallest: tuple[int, int], largest: tuple[int, int], **signature: Any) -> tuple[int, ...]:
        low, high = (1, 3, *smallest), (1, 3, *largest)
        return choose_verification_shape(Signature(**signature), Profile(low, low, high))

    assert shape((32, 32), (1088, 1920)) == (1, 3, 64, 64)
    assert shape((32, 32), (1088, 1920), multiple=24) == (1, 3, 72, 72)
    assert shape((256, 128), (256, 128)) == (1, 3, 256, 128)
    assert shape((8, 8), (24, 200)) == (1, 3, 24, 64)
    gray = Signature(input_channels=1, output_channels=1)
    assert choose_verification_shape(gray, Profile.from_shapes(gray)) == (3, 1, 64, 64)
    latent = Profile((2, 3, 1, 1), (2, 3, 1, 1), (4, 3, 1, 1))
    assert choose_verification_shape(Signature(kind="latent"), latent) == (2, 3, 1, 1)
