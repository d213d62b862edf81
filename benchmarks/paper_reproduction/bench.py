"""The families as exported bundles, each opened once in the CPU engine, for all figures to share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.families import TRAINED_FAMILIES, bundle
from dni_deploy.blending.blend import blend_float64
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.compatibility.correlation import find_filter_layers
from dni_deploy.session.session import Session, open_session

T = TypeVar("T")


class ReproductionBench:
    """Bundles and sessions by family, created on first use; `open_bench` makes and closes it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self._bundles: dict[str, Bundle] = {}
        self._sessions: dict[str, Session] = {}
        self._found: dict[str, Any] = {}

    def measure_once(self, key: str, measure: Callable[[], T]) -> T:
        """Measures once what several figures need; `key` names the measurement with all its parameters."""
        if key not in self._found:
            self._found[key] = measure()
        value: T = self._found[key]
        return value

    def bundle(self, family: str) -> Bundle:
        """Returns the exported family, controls included."""
        if family not in self._bundles:
            self._bundles[family] = bundle(family, self.folder)
        return self._bundles[family]

    def session(self, family: str) -> Session:
        """Returns the family in the CPU engine; set its alpha with `at`, which gives the other members the coefficient 0."""
        if family not in self._sessions:
            self._sessions[family] = self._stack.enter_context(open_session(self.bundle(family), engine="onnxruntime"))
        return self._sessions[family]

    def at(self, family: str, alpha: Mapping[str, float] | str) -> Session:
        """Sets the session to these coefficients (0 for other members) or to a single member, and returns it."""
        session = self.session(family)
        coefficients = {alpha: 1.0} if isinstance(alpha, str) else dict(alpha)
        session.alpha = {member: coefficients.get(member, 0.0) for member in TRAINED_FAMILIES[family].members}
        return session

    def between(self, family: str, first: str, second: str, alpha: float) -> Session:
        """Sets the session to (1 - alpha) * first + alpha * second, and returns it."""
        return self.at(family, {first: 1 - alpha, second: alpha})

    def tensors(self, family: str, alpha: Mapping[str, float] | str) -> dict[str, NDArray[np.float64]]:
        """Blends the bundle's members in float64; returns the tensors by initializer name."""
        coefficients = {alpha: 1.0} if isinstance(alpha, str) else dict(alpha)
        bundle = self.bundle(family)
        return blend_float64([bundle.read_weights(member) for member in coefficients], np.array(list(coefficients.values())))

    def filter_layers(self, family: str) -> dict[str, int]:
        """Returns the convolution and linear weights of the graph by name, with the axis of their filters."""
        return find_filter_layers(self.bundle(family).read_weights(next(iter(TRAINED_FAMILIES[family].members))))


@contextmanager
def open_bench(folder: Path | None = None) -> Iterator[ReproductionBench]:
    """Opens a bench in `folder` or in a temporary folder; leaving the block closes every session."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(TemporaryDirectory())) if folder is None else folder
        yield ReproductionBench(root, stack)
