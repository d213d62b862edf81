"""The workers of a command: one in this process, or many on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.folder import MANIFEST_FILE_NAME
from dni_deploy.errors import UsageError
from dni_deploy.jobs.description import JOB_FILE_NAME
from dni_deploy.jobs.manifest import RowWriter
from dni_deploy.jobs.ray_options import RayOptions
from dni_deploy.jobs.unit import UnitRow, make_worker_name
from dni_deploy.session.options import SessionOptions
from dni_deploy.utils.address import is_address
from dni_deploy.utils.optional_packages import import_optional
from dni_deploy.utils.progress import OptionalProgress

CPU_ENGINE = "onnxruntime"


def require_ray() -> None:
    """Checks that Ray is installed, before anything is begun.

    Raises:
        UnavailableError: It is not.
    """
    import_optional("dni_deploy.jobs.ray_pool")


def adapt_session_options(options: SessionOptions, ray_options: RayOptions) -> SessionOptions:
    """Returns the options of the session of a worker on the cluster: as many threads as it has CPUs.

    Raises:
        UsageError: A GPU is chosen, which the cluster does.
    """
    if options.device:
        raise UsageError(f"--device {options.device}: on a cluster, each worker gets its GPU from Ray. Nothing was written.")
    return replace(options, threads=options.threads or ray_options.cpus)


def make_path_absolute(path: str | os.PathLike[str]) -> str:
    """Returns a path that means the same in every folder; a separator at its end, which means a folder, stays, as an address does."""
    text = os.fspath(path)
    if is_address(text):
        return text
    return os.path.join(os.path.abspath(text), "") if text.endswith(("/", os.sep)) else os.path.abspath(text)


def make_bundle_absolute(bundle: Bundle) -> Bundle:
    """Returns a bundle whose path means the same in every folder."""
    return replace(bundle, path=Path(os.path.abspath(bundle.path)))


def open_workers(
    factory: Any,
    ray_options: RayOptions | None,
    *,
    bundle: Bundle | str | os.PathLike[str],
    engine: str,
    versions: dict[str, str] | None = None,
    progress: OptionalProgress = None,
) -> Any:
    """Opens what does units that write no files: a worker in this process, or workers on a cluster.

    Args:
        factory: Opens a worker in each process.
        ray_options: Where they run; None, or without an address: in this process.
        bundle: As for `open_ray_workers`.
        engine: The engine that was asked for.
        versions: As for `open_ray_workers`.
        progress: Called while the workers start.

    Returns:
        A UnitWorker; on a cluster, its rows come in any order.

    Raises:
        DniError: As the factory or RayWorkers raises.
    """
    if ray_options is None or ray_options.ray is None:
        return factory.open_worker()
    opened = Bundle.ensure_open(bundle)
    return open_ray_workers(factory, ray_options, bundle=opened, engine=engine, versions=versions, progress=progress)


def open_ray_workers(
    factory: Any,
    ray_options: RayOptions,
    *,
    bundle: Bundle,
    engine: str,
    job_folder: Path | None = None,
    other_paths: Sequence[str | os.PathLike[str]] = (),
    versions: dict[str, str] | None = None,
    progress: OptionalProgress = None,
) -> Any:
    """Opens workers on a cluster.

    Args:
        factory: Opens a worker in each process.
        ray_options: Where they run, and what each takes.
        bundle: Their bundle, which all machines have to see; one at an address is fetched by each.
        engine: The engine that was asked for.
        job_folder: The folder of their job, which all machines have to see. Rows that no worker could write go there. None: there
            is no job.
        other_paths: What else they have to see.
        versions: Distributions that they have to have in the same version.
        progress: Called while the workers start.

    Returns:
        The RayWorkers.

    Raises:
        DniError: As RayWorkers raises.
    """
    shared_paths = [] if bundle.address is not None else [bundle.path / MANIFEST_FILE_NAME]
    record_row = None
    if job_folder is not None:
        shared_paths += [path for path in (job_folder / JOB_FILE_NAME, job_folder) if path.exists()][:1]
        record_row = partial(_record_row, job_folder)
    return import_optional("dni_deploy.jobs.ray_pool").RayWorkers(
        factory,
        ray_options,
        uses_gpu=None if engine == "auto" else engine != CPU_ENGINE,
        shared_paths=[*shared_paths, *(path for path in other_paths if not is_address(path))],
        versions=versions,
        record_row=record_row,
        progress=progress,
    )


def _record_row(job_folder: Path, row: UnitRow) -> None:
    with closing(RowWriter(job_folder, make_worker_name())) as rows:
        rows.append(row)
