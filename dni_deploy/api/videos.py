"""Processes several videos into a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from dni_deploy.alpha.coefficients import Alpha
from dni_deploy.alpha.timeline import AlphaSource
from dni_deploy.api.video import VideoReport, video
from dni_deploy.api.video_cluster import video_on_cluster
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import InputError, PartialResultError, UsageError, escape_name
from dni_deploy.jobs.ray_options import RayOptions
from dni_deploy.utils.atomic_write import write_bytes_atomically
from dni_deploy.utils.optional_packages import import_optional
from dni_deploy.utils.progress import OptionalProgress
from dni_deploy.video_io.containers import MUXER_BY_SUFFIX

BATCH_FILE_NAME = ".dni-videos"
"""The file in the folder, while videos are processed into it, that holds a digest of what the run was asked for."""

FALLBACK_SUFFIX = ".mkv"
"""The container of an output whose source is in one that is not written: it holds nearly everything."""


def videos(
    bundle_path: Bundle | str | os.PathLike[str],
    source_paths: Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    alpha: Alpha | AlphaSource | str | os.PathLike[str] | None = None,
    *,
    ray_options: RayOptions | None = None,
    progress: OptionalProgress = None,
    **options: Any,
) -> list[VideoReport]:
    """Processes several videos, one after the other, into a folder.

    Each output is named as its source, in the same container where that is written, else in .mkv. A video that cannot be read
    does not stop the others. A stopped run leaves a small file in the folder, by which the same call knows which are done.

    Args:
        bundle_path: The bundle or its path.
        source_paths: The videos.
        folder: Of the outputs; it exists.
        alpha: As for `video`.
        ray_options: A Ray cluster that does the work, one video after the other; None: this process does.
        progress: Called with the frames done of each video.
        **options: As for `video`.

    Returns:
        What was done with each, without those that a stopped run had finished.

    Raises:
        UsageError: There is no such folder, two outputs would have one name, or one exists; nothing was done.
        PartialResultError: Some of them could not be read, or are damaged; the others were done.
        DniError: As `video` raises.
    """
    sources = [Path(path) for path in source_paths]
    plan_outputs(sources, Path(folder), force=True)
    bundle = Bundle.ensure_open(bundle_path)
    batch_path = Path(folder, BATCH_FILE_NAME)
    settings = {name: value for name, value in options.items() if name not in ("fresh", "force")}
    batch = sha256(repr([[os.fspath(path) for path in sources], bundle.digest, alpha, settings]).encode()).hexdigest()
    is_resumed = not options.get("fresh") and batch_path.is_file() and batch_path.read_text("ascii", "replace") == batch
    output_paths = plan_outputs(sources, Path(folder), force=is_resumed or bool(options.get("force")))
    write_bytes_atomically(batch_path, batch.encode(), force=True)
    reports, failures = [], []
    with _choose_function(ray_options) as make_video:
        for source_path, output_path in output_paths.items():
            if is_resumed and output_path.exists():
                continue
            try:
                reports.append(make_video(bundle, source_path, output_path, alpha, progress=progress, **options))
            except (InputError, PartialResultError) as error:
                failures.append(str(error))
    batch_path.unlink(missing_ok=True)
    if failures:
        raise PartialResultError(f"{len(reports)} of {len(output_paths)} videos were done whole. " + " ".join(failures))
    return reports


@contextmanager
def _choose_function(ray_options: RayOptions | None) -> Iterator[Callable[..., VideoReport]]:
    """Chooses what makes a video; a cluster is connected to, or started, once for all of them."""
    if ray_options is None:
        yield video
        return
    with import_optional("dni_deploy.jobs.ray_cluster").connect_cluster(ray_options):
        yield partial(video_on_cluster, ray_options=ray_options)


def plan_outputs(source_paths: Sequence[Path], folder: Path, *, force: bool = False) -> dict[Path, Path]:
    """Names the output of each video.

    Raises:
        UsageError: As `videos` says.
    """
    if not folder.is_dir():
        raise UsageError(f"Several videos need a folder to go to, and {escape_name(folder)} is none. Nothing was written.")
    outputs: dict[Path, Path] = {}
    for source_path in source_paths:
        suffix = source_path.suffix.lower()
        output_path = folder / f"{source_path.stem}{suffix if suffix in MUXER_BY_SUFFIX else FALLBACK_SUFFIX}"
        if output_path in outputs.values():
            raise UsageError(
                f"Two videos would become {escape_name(output_path)}; process one of them apart. Nothing was written."
            )
        if os.path.lexists(output_path) and not force:
            raise UsageError(f"{escape_name(output_path)} exists; give --force to replace it. Nothing was written.")
        outputs[source_path] = output_path
    return outputs
