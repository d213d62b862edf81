"""build: optimize a bundle for this machine ahead of time, and verify it weight by weight."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from typing import Any

from dni_deploy.bundle import Bundle
from dni_deploy.progress import MaybeProgress
from engines import build_engine, choose
from engines.options import BuildOptions


@dataclass(frozen=True)
class BuildReport:
    """What was built.

    plan     the file that was written, or None where the engine has none to write.
    road     how weights will reach the running network.
    weights  live weights, each of which was changed alone and changed the output.
    error    relative error of a mixed blend against a rebuilt session.
    """

    engine: str
    plan: str | None
    road: str
    weights: int
    error: float | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def build(
    bundle_path: str | os.PathLike[str],
    *,
    engine: str = "auto",
    threads: int = 0,
    force: bool = False,
    progress: MaybeProgress = None,
) -> BuildReport:
    """Write the bundle's plan for this machine, inside the bundle; sessions then open without optimizing again.

    Raises BundleError, EnvironmentProblem, UsageError (the plan exists, or the engine has none), LimitError (no room).
    """
    started = time.perf_counter()
    bundle = Bundle.open(bundle_path)
    name = choose(engine).name
    built = build_engine(bundle, name, BuildOptions(threads=threads, force=force), progress)
    plan = None if built.plan is None else str(built.plan)
    return BuildReport(name, plan, built.road, built.weights, built.error, time.perf_counter() - started)
