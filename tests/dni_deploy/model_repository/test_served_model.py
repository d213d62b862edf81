"""What Triton's process does with requests: each has its own alpha, rules and controls, and every error is a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dni_deploy.errors import EngineError, UnavailableError
from dni_deploy.model_repository import served_model
from dni_deploy.model_repository.model_config import ModelOptions
from dni_deploy.model_repository.served_model import BUNDLE_NAME, MAX_RULES_BYTES, ServedModel
from tests.fakes.triton_backend import Backend, InferenceResponse, Request, TritonError, TritonModelException, make_arguments
from tests.support import served_bundle

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sr")
    (folder / "1").mkdir()
    served_bundle.write(folder / "1" / BUNDLE_NAME)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[ServedModel]:
    model = ServedModel(make_arguments(str(folder), ModelOptions(threads=1)), Backend())
    yield model
    model.close()


def make_request(alpha: Any = 0.5, image: Any = IMAGE, rules: bytes | None = None, **controls: float) -> Request:
    request = {"image": np.array(image), "alpha": np.atleast_1d(np.array(alpha, np.float32))}
    request |= {f"control_{name}": np.array([value], np.float32) for name, value in controls.items()}
    return request if rules is None else {**request, "rules": np.frombuffer(rules, np.uint8).copy()}


def answer(model: ServedModel, *arguments: Any, **keywords: Any) -> InferenceResponse:
    (response,) = model.execute([make_request(*arguments, **keywords)])
    assert isinstance(response, InferenceResponse)
    return response


def is_scaled(response: InferenceResponse, factor: float) -> bool:
    """Whether the output is the image times the factor, whichever way a half is rounded."""
    output = response.outputs["output"]
    return output.dtype == np.uint8 and bool(np.abs(output - np.clip(IMAGE * factor, 0, 255)).max() < 0.501)


def error_of(response: InferenceResponse) -> tuple[str, str]:
    assert response.error is not None
    assert not response.outputs
    return response.error.code, response.error.message


def test_each_request_has_its_own_alpha(model: ServedModel) -> None:
    shares = [0.0, 1.0, 0.25, 0.25, [0.75, 0.25], 0.5]
    responses = model.execute([make_request(share) for share in shares])
    for share, response in zip(shares, responses, strict=True):
        first = share[0] if isinstance(share, list) else share
        assert is_scaled(response, 0.5 + first / 2)
        assert response.outputs["alpha"].tolist() == [first, 1 - first]
        assert response.outputs["alpha"].dtype == np.float32


def test_rules_and_controls_are_of_one_request(model: ServedModel) -> None:
    assert is_scaled(answer(model, 0.5, gain=0.5), 0.375)
    assert is_scaled(answer(model, 0.5, rules=b"conv.weight=1\n"), 1.0)
    assert is_scaled(answer(model, 0.5), 0.75)


def test_an_error_of_one_request_is_its_own_answer_alone(model: ServedModel) -> None:
    first, second, third = model.execute([make_request(1.0), make_request(7.0), make_request(0.0)])
    assert is_scaled(first, 1.0)
    assert "outside 0 to 1" in error_of(second)[1]
    assert is_scaled(third, 0.5)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"alpha": float("nan")}, "is nan; it must be a finite number"),
        ({"alpha": 1.5}, "outside 0 to 1"),
        ({"alpha": [0.2, 0.3]}, "must sum to 1"),
        ({"alpha": [0.2, 0.3, 0.5]}, "Alpha has 3 numbers, the family has 2 members"),
        ({"alpha": []}, "Alpha has 0 numbers"),
        ({"image": np.zeros((0, 4, 3), np.uint8)}, r"got uint8 \(0, 4, 3\)"),
        ({"image": np.zeros((4, 0, 3), np.uint8)}, r"got uint8 \(4, 0, 3\)"),
        ({"rules": b"nonsense"}, "is no rule"),
        ({"rules": b"body.*=0.5"}, "body"),
        ({"rules": b"\xff\xfe"}, "The rules are no text: UTF-8"),
        ({"rules": b"\n" * (MAX_RULES_BYTES + 1)}, "65536 are read"),
        ({"gain": 2.0}, "outside its range 0.1..1.7"),
        ({"gain": float("nan")}, "gain is a number"),
    ],
)
def test_what_is_wrong_with_a_request_is_our_sentence(model: ServedModel, change: Any, sentence: str) -> None:
    code, message = error_of(answer(model, **change))
    assert code == TritonError.INVALID_ARG
    assert re.search(sentence, message)
    assert is_scaled(answer(model, 0.5), 0.75)  # and nothing of it stays


def test_the_ends_of_a_controls_range_are_in_it_although_float32_rounds_them(model: ServedModel) -> None:
    for value in (served_bundle.GAIN.low, served_bundle.GAIN.high):
        assert is_scaled(answer(model, 0.5, gain=value), 0.75 * value)


def test_a_size_beyond_the_limit_is_refused_before_anything_is_rendered(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DNI_MAX_PIXELS", "599")
    code, message = error_of(answer(model))
    assert (code, "600 pixels, more than 599 (DNI_MAX_PIXELS of the server)" in message) == (TritonError.INVALID_ARG, True)


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (EngineError("CUDA error 700."), TritonError.INTERNAL, "CUDA error 700."),
        (MemoryError(), TritonError.INVALID_ARG, "needs more memory than is free"),
        (ZeroDivisionError("secret path"), TritonError.INTERNAL, "A bug in dni-deploy (ZeroDivisionError); the server's log"),
    ],
)
def test_what_is_not_the_requests_fault(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str, sentence: str
) -> None:
    backend = Backend()
    model = ServedModel(make_arguments(str(folder)), backend)

    def fail(*arguments: Any, **keywords: Any) -> None:
        raise error

    monkeypatch.setattr(type(model._session), "render", fail)
    response = answer(model)
    assert error_of(response)[0] == code
    assert sentence in error_of(response)[1]
    assert "secret" not in error_of(response)[1]
    assert ("secret path" in backend.logged[-1]) == isinstance(error, ZeroDivisionError)
    model.close()


def test_tiles_are_the_whole_image(folder: Path) -> None:
    model = ServedModel(make_arguments(str(folder), ModelOptions(tile=16)), Backend())
    assert is_scaled(answer(model, 0.25), 0.625)
    assert answer(model, 0.25).outputs["alpha"].tolist() == [0.25, 0.75]
    model.close()


def test_raw_tensors_are_those_of_the_network(folder: Path) -> None:
    model = ServedModel(make_arguments(str(folder), ModelOptions(raw=True)), Backend())
    x = np.random.default_rng(0).normal(0, 10, (1, 3, 5, 7)).astype(np.float32)
    (response,) = model.execute([{"input": x, "alpha": np.array([0.5], np.float32)}])
    assert np.array_equal(response.outputs["output"], x * np.float32(0.75))
    assert response.outputs["alpha"].tolist() == [0.5, 0.5]
    (response,) = model.execute([{"input": x[:, :2], "alpha": np.array([0.5], np.float32)}])
    assert error_of(response) == (TritonError.INVALID_ARG, "The network takes 3 channels, the array has 2.")
    model.close()


@pytest.mark.parametrize("size", [(8, 9), (3, 8), (0, 8)])
def test_raw_tensors_of_sizes_that_the_network_does_not_take(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "1").mkdir()
    served_bundle.write(tmp_path / "1" / BUNDLE_NAME, multiple=4)
    model = ServedModel(make_arguments(str(tmp_path), ModelOptions(raw=True)), Backend())
    (response,) = model.execute([{"input": np.zeros((1, 3, *size), np.float32), "alpha": np.ones(1, np.float32)}])
    model.close()
    assert error_of(response)[0] == TritonError.INVALID_ARG
    assert re.search("multiples of 4 and at least 4; got|infer takes a float32 array", error_of(response)[1])


def test_the_models_own_values_of_controls_are_those_of_a_request_without(folder: Path) -> None:
    model = ServedModel(make_arguments(str(folder), ModelOptions(controls={"gain": 0.5})), Backend())
    for gain, factor in ((None, 0.5), (1.0, 1.0), (None, 0.5)):
        controls = {} if gain is None else {"gain": gain}
        assert is_scaled(answer(model, 1.0, **controls), factor)
    model.close()


def test_an_instance_logs_what_it_runs(folder: Path) -> None:
    backend = Backend()
    ServedModel(make_arguments(str(folder)), backend).close()
    assert backend.logged == ["sr version 1: same, half by onnxruntime (asked for)"]


def test_a_bundle_that_cannot_be_opened_is_our_sentence(tmp_path: Path) -> None:
    with pytest.raises(TritonModelException, match=r"^BundleError: .*bundle\.dni does not exist"):
        ServedModel(make_arguments(str(tmp_path)), Backend())


def test_a_gpu_without_an_engine_for_it_is_no_slow_success(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    opened = served_model.open_session

    def open_session(*arguments: Any) -> Any:
        session = opened(*arguments)
        monkeypatch.setattr(type(session), "close", lambda self: closed.append(self))
        return session

    monkeypatch.setattr(served_model, "open_session", open_session)
    with pytest.raises(TritonModelException, match=r"^UnavailableError: Triton has put this model on a GPU.*--device cpu"):
        ServedModel(make_arguments(str(folder), kind="GPU"), Backend())
    assert len(closed) == 1
    assert UnavailableError.kind == "UnavailableError"
