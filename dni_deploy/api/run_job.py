"""A run into a folder as a job: what it is, which of its images are done, and which are missing."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from dni_deploy._version import __version__
from dni_deploy.alpha.coefficients import Alpha, Coefficients
from dni_deploy.api.run_images import is_own_output, read_source_state
from dni_deploy.blending.control_settings import ControlSettings
from dni_deploy.blending.group_rules import Rule, parse_rule
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import UsageError, escape_name
from dni_deploy.imaging.image_tasks import ImageFileOptions, ImageTask
from dni_deploy.jobs.job_folder import OTHER_SETTINGS_ADVICE, JobFolder
from dni_deploy.jobs.manifest import read_rows
from dni_deploy.jobs.shard import Shard, format_shards_to_repeat
from dni_deploy.session.options import SessionOptions
from dni_deploy.spatial.alpha_map import AlphaMapOptions
from dni_deploy.utils.format_count import format_count
from dni_deploy.utils.text_file import hash_file

ENCODER_PACKAGES = ("pillow", "imagecodecs")
"""Distributions on whose version the bytes of outputs depend."""

MAX_LISTED_NAMES = 5


class Selection(NamedTuple):
    """Which images of a job are to be done.

    Attributes:
        tasks: Those.
        kept: The paths of the outputs of the others, which are done.
        unit_count: Number of all images of the job, of other shards and of runs before, too.
    """

    tasks: list[ImageTask]
    kept: list[str]
    unit_count: int


class DoneTasks(NamedTuple):
    """Which images of a job are done.

    Attributes:
        outputs: The paths of their outputs by their numbers.
        other_count: Number of units that have rows and are none of these images.
    """

    outputs: dict[int, str]
    other_count: int


def describe_job(
    bundle: Bundle,
    alpha: Alpha | None,
    map_options: AlphaMapOptions | None,
    options: SessionOptions,
    file_options: ImageFileOptions,
    tiles: tuple[int | None, int | None],
) -> dict[str, Any]:
    """Describes everything that the bytes of the outputs depend on, but for the engine, as JSON.

    Raises:
        UsageError: A rule or a control is none.
        CoefficientsError: An alpha does not suit the family.
        InputError: The alpha map cannot be read.
    """
    members, extrapolate = bundle.members, options.extrapolate

    def parse(given: Alpha | None) -> dict[str, float] | None:
        if given is None:
            return None
        return dict(zip(members, Coefficients.parse(given, members, extrapolate=extrapolate).values, strict=True))

    description: dict[str, Any] = {
        "kind": "images",
        "bundle": bundle.digest,
        "alpha": parse(alpha),
        "precision": options.precision,
        "tiles": list(tiles),
        "format": file_options.file_format,
        "suffix": file_options.suffix,
        "quality": file_options.quality,
        "size": [file_options.outscale, list(file_options.size or ())],
        "strip": file_options.strip,
        "versions": {"dni-deploy": __version__, **read_encoder_versions()},
    }
    if options.rules:
        rules = (
            rule if isinstance(rule, Rule) else parse_rule(rule, members, extrapolate=extrapolate) for rule in options.rules
        )
        description["rules"] = [rule.to_json() for rule in rules]
    if bundle.signature.controls:
        settings = ControlSettings.make_default(bundle.signature.controls, bundle.weight_names).change(options.controls)
        description["controls"] = settings.to_dict()
    if map_options is not None:
        description["alpha map"] = {
            "mask": hash_file(map_options.mask, "alpha map"),
            "white": parse(map_options.white),
            "levels": map_options.levels,
            "fit": map_options.resize_to_fit,
        }
    return description


def read_encoder_versions() -> dict[str, str]:
    """Reads the versions of the ENCODER_PACKAGES that are installed."""
    versions = {}
    for name in ENCODER_PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def check_requested_engine(job: JobFolder, options: SessionOptions) -> None:
    """Checks that the engine that was asked for is that of the job, without opening it.

    Raises:
        UsageError: It is another one.
    """
    stored = job.read_engine().get("engine")
    if job.is_resumed and stored and options.engine not in ("auto", stored[0]):
        raise UsageError(f"{escape_name(job.path)} holds a stopped job that differs in: engine. {OTHER_SETTINGS_ADVICE}")


def select_tasks(
    tasks: Sequence[ImageTask], folder: str, job: JobFolder, *, shard: Shard | None = None, force: bool = False
) -> Selection:
    """Selects the images that are to be done.

    Done are those on which rows and disk agree: the output has the size that its row says, and the source is still the same.

    Args:
        tasks: All images of the job.
        folder: The output folder.
        job: The job.
        shard: Do these alone.
        force: Outputs that exist may be replaced.

    Raises:
        UsageError: An output exists that the job has not made.
    """
    done = find_done_tasks(tasks, folder, job)
    own = None if shard is None else set(shard.select_units(sort_tasks(tasks)))
    selected, kept, foreign = [], [], []
    for index, task in enumerate(tasks):
        if own is not None and task not in own:
            continue
        if job.is_resumed and index in done.outputs:
            kept.append(done.outputs[index])
            continue
        if not force and not is_own_output(task.output, job.started_ns):
            foreign.append(task.output)
        selected.append(task)
    if foreign:
        others = "" if len(foreign) == 1 else f", and {len(foreign) - 1} more"
        raise UsageError(
            f"{escape_name(foreign[0])} exists{others}, and the job that is to be resumed has not made it; move it away, or give "
            "--force to replace it. Nothing was written."
        )
    return Selection(selected, kept, len(tasks) + done.other_count)


def find_done_tasks(tasks: Sequence[ImageTask], folder: str, job: JobFolder) -> DoneTasks:
    """Finds the images on which a row and the disk agree."""
    index_by_id = {task.id: index for index, task in enumerate(tasks)}
    outputs: dict[int, str] = {}
    others = set()
    for row in read_rows(job.path):
        index = index_by_id.get(row.unit)
        if index is None:
            others.add(row.unit)
        elif row.output is not None and index not in outputs:
            path = os.path.join(folder, *row.output.path.split("/"))
            if _is_done(path, row.output.size, tasks[index].source, row.details.get("source_state")):
                outputs[index] = path
    return DoneTasks(outputs, len(others))


def sort_tasks(tasks: Sequence[ImageTask]) -> list[ImageTask]:
    """Sorts images by their ids, in which order shards take them."""
    return sorted(tasks, key=lambda task: task.id)


def check_all_done(tasks: Sequence[ImageTask], folder: str, job: JobFolder) -> list[str]:
    """Checks that all images of a job are done.

    Returns:
        The paths of the outputs.

    Raises:
        UsageError: Some are missing; it names them, and the shards that make them.
    """
    ordered = sort_tasks(tasks)
    outputs = find_done_tasks(ordered, folder, job).outputs
    missing = {position: task.id for position, task in enumerate(ordered) if position not in outputs}
    if missing:
        raise _make_missing_error(missing, len(tasks), folder, job)
    return list(outputs.values())


def _make_missing_error(missing: Mapping[int, str], count: int, folder: str, job: JobFolder) -> UsageError:
    shards, messages = set(), {}
    for row in read_rows(job.path):
        shards.add(row.shard)
        if row.error is not None:
            messages[row.unit] = row.error.message
    names = list(missing.values())
    listed = ", ".join([*map(escape_name, names[:MAX_LISTED_NAMES]), *(["..."] if len(names) > MAX_LISTED_NAMES else [])])
    reason = next((f" {messages[name]}" for name in names if name in messages), "")
    return UsageError(
        f"{escape_name(folder)} lacks {len(missing)} of {format_count(count, 'image')}: {listed}"
        f"{format_shards_to_repeat(shards, lambda _: missing)}. `dni-deploy status` shows more.{reason}"
    )


def _is_done(path: str, size: int, source: str, source_state: str | None) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == size and read_source_state(source) == source_state
