"""Images one of which kills the process that reads it, for jobs on a cluster."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from dni_deploy.api.run_images import ImageWorker, ImageWorkerFactory
from dni_deploy.imaging.image_tasks import ImageTask
from dni_deploy.jobs.unit import UnitRow
from dni_deploy.utils.progress import OptionalProgress

KILLER = "kills.png"


@dataclass(frozen=True, kw_only=True)
class KillingFactory(ImageWorkerFactory):
    """Opens workers that die at KILLER, as a decoder that crashes."""

    def open_worker(self) -> Any:
        return KillingWorker(super().open_worker())


class KillingWorker:
    def __init__(self, worker: ImageWorker) -> None:
        self._worker, self.description = worker, worker.description

    def run_units(self, units: Sequence[ImageTask], progress: OptionalProgress = None) -> Generator[UnitRow, None, None]:
        if any(unit.source_name == KILLER for unit in units):
            os._exit(1)
        yield from self._worker.run_units(units, progress)

    def close(self) -> None:
        self._worker.close()
