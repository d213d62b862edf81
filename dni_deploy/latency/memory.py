"""Memory: what one way keeps resident, measured in a process of its own."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.latency.modes import BACKEND_MODES
from dni_deploy.utils.hardware import measure_resident_bytes


def measure_mode_memory(bundle_path: str, mode: str, shape: tuple[int, ...], threads: int) -> int | None:
    """Growth of resident memory by opening a row that is not on a GPU, one alpha change and two frames; None where it cannot be told.

    The packages that the row needs are loaded before the first reading.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_measure_memory_growth, bundle_path, mode, shape, threads).result()
        except BrokenProcessPool:  # out of memory
            return None


def _measure_memory_growth(bundle_path: str, name: str, shape: tuple[int, ...], threads: int) -> int | None:
    row = next(row for row in BACKEND_MODES if row.name == name)
    bundle = Bundle.open(bundle_path)
    import onnxruntime  # noqa: F401

    if name == "torch":
        import torch  # noqa: F401

        import exporters.architectures  # noqa: F401
    before = measure_resident_bytes()
    engine = row.open_engine(bundle, threads)
    x = np.zeros(shape, np.float32)
    engine.refit(0, np.full(len(bundle.members), 1 / len(bundle.members)))
    engine.infer(0, x)
    engine.infer(0, x)
    after = measure_resident_bytes()
    return None if before is None or after is None else after - before
