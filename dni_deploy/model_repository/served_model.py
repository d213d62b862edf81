"""A bundle as Triton's python backend runs it: requests in, responses out, and our sentences as its errors."""

from __future__ import annotations

import ctypes
import json
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.alpha.coefficients import Alpha
from dni_deploy.errors import DniError, EngineError, LimitError, UnavailableError, UsageError
from dni_deploy.imaging.image_limits import MAX_PIXELS_VARIABLE, max_frame_pixels
from dni_deploy.model_repository.model_config import CONTROL_INPUT_PREFIX, CPU_ENGINE, ModelOptions
from dni_deploy.session.session import open_session
from dni_deploy.session.tiles import render_tiled

BUNDLE_NAME = "bundle.dni"
"""The bundle's folder in that of a version."""

MAX_RULES_BYTES = 1 << 16

OUT_OF_MEMORY_MESSAGE = "The image needs more memory than is free; smaller tiles need less (dni-deploy triton --tile)."


class ServedModel:
    """An instance of a model: one session.

    Alpha comes with each request and goes with its image, so that it does not matter which instance answers, nor what it rendered
    before.

    Thread safety: Triton calls it from one thread.
    """

    def __init__(self, arguments: dict[str, str], backend: Any) -> None:
        """Opens the bundle and renders nothing yet.

        Args:
            arguments: What Triton gives `initialize`.
            backend: The module triton_python_backend_utils.

        Raises:
            TritonModelException: Of `backend`: the bundle cannot be opened here; with our sentence.
        """
        self._backend = backend
        config = json.loads(arguments["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        kind, device = arguments["model_instance_kind"], int(arguments["model_instance_device_id"])
        folder = Path(arguments["model_repository"], arguments["model_version"])
        try:
            self._options = ModelOptions.from_parameters(parameters)
            self._session = open_session(folder / BUNDLE_NAME, self._options.make_session_options(kind, device))
            if kind == "GPU" and self._session.engine.name == CPU_ENGINE:
                self._session.close()
                raise UnavailableError(
                    f"Triton has put this model on a GPU, and no engine for one can run here ({self._session.engine_reason}); "
                    "install one, or write the model with --device cpu."
                )
        except DniError as error:
            raise backend.TritonModelException(f"{error.kind}: {error}") from None
        self._default_controls = self._session.controls
        self._settings: tuple[str, dict[str, float]] | None = ("", {})
        session = self._session
        backend.Logger.log_info(
            f"{arguments['model_name']} version {arguments['model_version']}: {', '.join(session.members)} by "
            f"{session.engine.name} ({session.engine_reason})"
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers requests in their order; an error of one is its answer, and the others do not notice."""
        return [self._answer(request) for request in requests]

    def close(self) -> None:
        """Frees the network."""
        self._session.close()

    def _answer(self, request: Any) -> Any:
        backend = self._backend
        try:
            output, alpha = self._render(request)
            tensors = [self._make_tensor("output", output), self._make_tensor("alpha", np.array(alpha, np.float32))]
            return backend.InferenceResponse(output_tensors=tensors)
        except DniError as error:
            text, code = str(error), self._choose_code(error)
        except MemoryError:
            text, code = OUT_OF_MEMORY_MESSAGE, backend.TritonError.INVALID_ARG
        except Exception as error:
            backend.Logger.log_error(traceback.format_exc())
            text = f"A bug in dni-deploy ({type(error).__name__}); the server's log has the traceback."
            code = backend.TritonError.INTERNAL
        return backend.InferenceResponse(error=backend.TritonError(text, code))

    def _choose_code(self, error: DniError) -> Any:
        """INVALID_ARG (HTTP 400) for what another request would avoid, INTERNAL (500) for what it would not."""
        codes = self._backend.TritonError
        return codes.INTERNAL if isinstance(error, (EngineError, UnavailableError)) else codes.INVALID_ARG

    def _render(self, request: Any) -> tuple[NDArray[Any], Sequence[float]]:
        alpha = self._read_alpha(request)
        self._apply_settings(request)
        session = self._session
        if self._options.raw:
            x = self._read_tensor(request, "input")
            self._check_size(x.shape[0], *x.shape[2:])
            self._check_sides(*x.shape[2:])
            return session.infer(x, alpha=alpha), session.parse_alpha(alpha).values
        frame = self._read_tensor(request, "image")
        self._check_size(1, *frame.shape[:2])
        if self._options.tile is None:
            rendered = session.render(frame, alpha=alpha)
        else:
            rendered = render_tiled(session, frame, self._options.tile, alpha=alpha)
        return rendered.output, rendered.coefficients.values

    def _read_tensor(self, request: Any, name: str) -> NDArray[Any]:
        tensor: NDArray[Any] | None = self._find_tensor(request, name)
        if tensor is None:
            raise UsageError(f"The request has no input {name!r}.")
        return tensor

    def _find_tensor(self, request: Any, name: str) -> NDArray[Any] | None:
        tensor = self._backend.get_input_tensor_by_name(request, name)
        # Not as_numpy(): with NumPy 2, Triton before 24.11 gives an array that repeats its first number (python_backend #384).
        return None if tensor is None else np.from_dlpack(tensor)

    def _read_alpha(self, request: Any) -> Alpha:
        numbers = [float(number) for number in self._read_tensor(request, "alpha")]
        return numbers[0] if len(numbers) == 1 and len(self._session.members) == 2 else numbers

    def _apply_settings(self, request: Any) -> None:
        """Sets the request's rules and controls; those that it leaves out are as the model has them."""
        rules = self._find_tensor(request, "rules")
        text = "" if rules is None else _decode_rules(rules)
        controls = {}
        for control in self._session.signature.controls:
            value = self._find_tensor(request, CONTROL_INPUT_PREFIX + control.name)
            if value is not None:
                controls[control.name] = _undo_rounding(value[0], (control.low, control.high, control.default))
        if (text, controls) == self._settings:
            return
        self._settings = None  # until both are set
        self._session.rules = [line.strip() for line in text.splitlines() if line.strip()]
        self._session.controls = {**self._default_controls, **controls}
        self._settings = (text, controls)

    def _check_size(self, count: int, height: int, width: int) -> None:
        pixels = count * height * width * self._session.signature.scale**2
        if pixels > max_frame_pixels():
            raise LimitError(
                f"The output would have {pixels:,} pixels, more than {max_frame_pixels():,} ({MAX_PIXELS_VARIABLE} of the server)."
            )

    def _check_sides(self, *sides: int) -> None:
        signature = self._session.signature
        if signature.kind == "image" and any(side != signature.round_up_side(side) for side in sides):
            raise UsageError(
                f"Height and width are multiples of {signature.multiple} and at least {signature.round_up_side(1)}; got "
                f"{' x '.join(map(str, sides))}."
            )

    def _make_tensor(self, name: str, array: NDArray[Any]) -> Any:
        return self._backend.Tensor.from_dlpack(name, DlpackArray(array))


def _undo_rounding(value: np.float32, numbers: tuple[float, ...]) -> float:
    """Returns the number that became this value in float32, if it is one of these; rounded, an end of a range may be outside of it."""
    return next((number for number in numbers if np.float32(number) == value), float(value))


def _decode_rules(values: NDArray[np.uint8]) -> str:
    data = values.tobytes()
    if len(data) > MAX_RULES_BYTES:
        raise LimitError(f"The rules are {len(data)} bytes; {MAX_RULES_BYTES} are read.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError("The rules are no text: UTF-8, one rule a line, as an array of uint8.") from None


class DlpackArray:
    """An array for `Tensor.from_dlpack`.

    Not `Tensor(name, array)`: Triton before 24.11 then sends empty outputs where NumPy is 2 or newer. Source: python_backend #384.
    """

    def __init__(self, array: NDArray[Any]) -> None:
        """Keeps the array, which is writable and contiguous."""
        self._array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        """Returns the type and the number of the device, as the protocol has them."""
        device: tuple[int, int] = self._array.__dlpack_device__()
        return device

    def __dlpack__(self, **keywords: Any) -> Any:
        """Returns a capsule whose taker frees the memory.

        Triton gives a capsule that it has taken a name that NumPy does not know, so that NumPy's own destructor of the capsule
        would write a traceback to the log for every output. It has nothing to do by then, and is removed.
        """
        capsule = self._array.__dlpack__()
        ctypes.pythonapi.PyCapsule_SetDestructor(ctypes.py_object(capsule), None)
        return capsule
