"""A session over a minimal engine, for operations on frames."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.api import run_images
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.session.session import Session
from dni_deploy.signature import Signature
from engines.frame_conversion import HostFrameEngine

MEMBERS = ("a", "b")


def named_bundle(scale: int = 1, digest: str = "0" * 64) -> Bundle:
    """Returns a fake bundle with the fields that `video` and `run` read."""
    manifest: Any = SimpleNamespace(
        members=[SimpleNamespace(name=name) for name in MEMBERS], signature=Signature(radius=0, scale=scale)
    )
    return Bundle(Path("named.dni"), manifest, digest)


class Dimmer(HostFrameEngine):
    """Each member multiplies the frame by its own factor, so a blend multiplies by the blended factor.

    A row of coefficients after the first is of a control with the default 1, by which the frame is multiplied, too.
    """

    name = "dimmer"
    update_path = "a number"

    def __init__(self, factors: tuple[float, ...], scale: int = 1, broken: int | None = None) -> None:
        super().__init__()
        self.factors, self.scale, self.broken = np.array(factors), scale, broken
        self.slots = 2
        self.set = [1.0, 1.0]
        self.refits = 0
        self.closed = 0

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        first, *controls = np.atleast_2d(coefficients)
        self.set[slot] = float(first @ self.factors * np.prod([row.sum() for row in controls]))
        self.refits += 1

    def synchronize(self, slot: int) -> None:
        pass

    def infer(self, slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        y = (x * np.float32(self.set[slot])).repeat(self.scale, axis=2).repeat(self.scale, axis=3)
        if x.shape[3] == self.broken:
            y[0, 0, 0, 0] = np.nan
        return y

    def close(self) -> None:
        self.closed += 1


def opener(engine: Dimmer, members: tuple[str, ...], signature: Signature | None = None) -> Any:
    """Returns a fake of open_session that returns the real Session over this engine."""

    def open_session(bundle: object, options: object = None, *, alpha: Any = None, **keywords: object) -> Session:
        first = Coefficients.one_hot(members[0], members) if alpha is None else Coefficients.parse(alpha, members)
        return Session(engine, members, signature or Signature(radius=0, scale=engine.scale), first)

    return open_session


def run_over(monkeypatch: pytest.MonkeyPatch, engine: Dimmer, signature: Signature | None = None) -> None:
    """Lets `run` open a fake bundle by any name, and run it on this engine."""
    monkeypatch.setattr(run_images, "open_session", opener(engine, MEMBERS, signature))
    monkeypatch.setattr(Bundle, "ensure_open", lambda given: given if isinstance(given, Bundle) else named_bundle(engine.scale))
