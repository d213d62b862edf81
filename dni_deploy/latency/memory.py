"""Memory: what one way keeps resident, measured in a process of its own."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.latency.modes import ROWS
from dni_deploy.utils.hardware import resident


def resident_bytes(bundle_path: str, row: str, shape: tuple[int, ...], threads: int) -> int | None:
    """Growth of resident memory by opening a row that is not on a GPU, one alpha change and two frames; None where it cannot be told.

    The packages that the row needs are loaded before the first reading.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_measure, bundle_path, row, shape, threads).result()
        except BrokenProcessPool:  # out of memory
            return None


def _measure(bundle_path: str, name: str, shape: tuple[int, ...], threads: int) -> int | None:
    row = next(row for row in ROWS if row.name == name)
    bundle = Bundle.open(bundle_path)
    import onnxruntime  # noqa: F401

    if name == "torch":
        import torch  # noqa: F401

        import exporters.architectures  # noqa: F401
    before = resident()
    engine = row.open(bundle, threads)
    x = np.zeros(shape, np.float32)
    engine.refit(0, np.full(len(bundle.members), 1 / len(bundle.members)))
    engine.infer(0, x)
    engine.infer(0, x)
    after = resident()
    return None if before is None or after is None else after - before
