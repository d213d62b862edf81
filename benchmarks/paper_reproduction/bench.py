"""Bench: what a figure works on. Families as exported bundles, opened once each in the CPU engine."""

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
    """Bundles and sessions by family, made when first asked for. Made by `open_bench`, which closes them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self._bundles: dict[str, Bundle] = {}
        self._sessions: dict[str, Session] = {}
        self._found: dict[str, Any] = {}

    def measure_once(self, key: str, measure: Callable[[], T]) -> T:
        """What several figures need, measured by the first of them. key: what it is, with every parameter in it."""
        if key not in self._found:
            self._found[key] = measure()
        value: T = self._found[key]
        return value

    def bundle(self, family: str) -> Bundle:
        """The exported family, controls included."""
        if family not in self._bundles:
            self._bundles[family] = bundle(family, self.folder)
        return self._bundles[family]

    def session(self, family: str) -> Session:
        """The family in the CPU engine; set its alpha through `at`, which names members that are left out as 0."""
        if family not in self._sessions:
            self._sessions[family] = self._stack.enter_context(open_session(self.bundle(family), engine="onnxruntime"))
        return self._sessions[family]

    def at(self, family: str, alpha: Mapping[str, float] | str) -> Session:
        """The session at these coefficients (members not named have 0), or at one member alone."""
        session = self.session(family)
        coefficients = {alpha: 1.0} if isinstance(alpha, str) else dict(alpha)
        session.alpha = {member: coefficients.get(member, 0.0) for member in TRAINED_FAMILIES[family].members}
        return session

    def between(self, family: str, first: str, second: str, alpha: float) -> Session:
        """The session at (1 - alpha) * first + alpha * second."""
        return self.at(family, {first: 1 - alpha, second: alpha})

    def tensors(self, family: str, alpha: Mapping[str, float] | str) -> dict[str, NDArray[np.float64]]:
        """The blended tensors by initializer name, in float64, made from the bundle's members."""
        coefficients = {alpha: 1.0} if isinstance(alpha, str) else dict(alpha)
        bundle = self.bundle(family)
        return blend_float64([bundle.read_weights(member) for member in coefficients], np.array(list(coefficients.values())))

    def filter_layers(self, family: str) -> dict[str, int]:
        """The convolution and linear weights by name, with the axis of their filters, as the graph has them."""
        return find_filter_layers(self.bundle(family).read_weights(next(iter(TRAINED_FAMILIES[family].members))))


@contextmanager
def open_bench(folder: Path | None = None) -> Iterator[ReproductionBench]:
    """A bench over `folder`, or over a temporary one; leaving the block closes every session."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(TemporaryDirectory())) if folder is None else folder
        yield ReproductionBench(root, stack)
