"""The options of a job on a Ray cluster. Importable without Ray."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from dni_deploy.errors import UsageError, escape_name

AUTO, LOCAL = "auto", "local"


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Where the workers of a job run, and what each of them takes.

    Attributes:
        ray: "auto": RAY_ADDRESS or the cluster of this machine; "local": one that is started here and ends with the job; HOST:PORT;
            or ray://HOST:PORT, from a machine that is not in the cluster. None: no Ray.
        workers: Number of workers. None: as many as the cluster has room for.
        gpus: GPUs of a worker; several share one below 1. None: 1 where the engine and the cluster have any.
        cpus: CPUs of a worker, and threads of its engine.
        retries: Number of times that a unit may kill a worker, alone in it, before it is given up.

    Raises:
        UsageError: A number that is out of range, or an address that is none.
    """

    ray: str | None = None
    workers: int | None = None
    gpus: float | None = None
    cpus: int = 1
    retries: int = 2

    def __post_init__(self) -> None:
        if self.ray is not None and self.ray not in (AUTO, LOCAL):
            parse_address(self.ray)
        given = next((name for name in ("workers", "gpus") if getattr(self, name) is not None), None)
        if self.ray is None and given is not None:
            raise UsageError(f"--{given} is for workers on a cluster: give --ray, such as --ray auto.")
        if self.gpus is not None and not (0 <= self.gpus < math.inf and (self.gpus <= 1 or self.gpus == int(self.gpus))):
            raise UsageError(f"--gpus {self.gpus:g}: a worker takes a part of one GPU, such as 0.5, or whole ones.")
        for name in ("workers", "cpus", "retries"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name} {value}: the smallest number is 1.")


def parse_address(text: str) -> tuple[str, int]:
    """Parses HOST:PORT or ray://HOST:PORT.

    Raises:
        UsageError: It is neither.
    """
    match = re.fullmatch(r"(?:ray://)?(\[[0-9a-fA-F:.%]+\]|[^\s/:@]+):(\d{1,5})", text, re.ASCII)
    if match is None or not 0 < int(match[2]) < 65536:
        raise UsageError(f"--ray {escape_name(text)} is none of auto, local, HOST:PORT and ray://HOST:PORT.")
    return match[1].strip("[]"), int(match[2])
