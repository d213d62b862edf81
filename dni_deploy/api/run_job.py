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
from dni_deploy.api.run_images import is_own_output
from dni_deploy.blending.control_settings import ControlSettings
from dni_deploy.blending.group_rules import Rule, parse_rule
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import UsageError, escape_name
from dni_deploy.imaging.image_tasks import ImageFileOptions, ImageTask
from dni_deploy.jobs.job_folder import OTHER_SETTINGS_ADVICE, DoneUnit, JobFolder
from dni_deploy.jobs.manifest import read_rows
from dni_deploy.jobs.shard import Shard, format_shards_to_repeat
from dni_deploy.session.options import SessionOptions
from dni_deploy.spatial.alpha_map import AlphaMapOptions
from dni_deploy.storage.files import SourceStates
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
        "versions": {"dni-deploy": __version__, **_read_versions()},
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


def _read_versions() -> dict[str, str]:
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
    done = job.read_done_units()
    states = SourceStates()
    own = set(shard.select_units(sort_tasks(tasks))) if shard is not None else None
    selected, kept, foreign, count = [], [], [], len(tasks)
    for task in tasks:
        unit = done.pop(task.id, None)
        if own is not None and task not in own:
            continue
        if job.is_resumed and unit is not None and _is_done(task, unit, folder, states):
            kept.append(_output_path(folder, unit))
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
    return Selection(selected, kept, count + len(done))


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
    done = job.read_done_units()
    states = SourceStates()
    missing: dict[int, str] = {}
    outputs = []
    for position, task in enumerate(sort_tasks(tasks)):
        unit = done.get(task.id)
        if unit is not None and _is_done(task, unit, folder, states):
            outputs.append(_output_path(folder, unit))
        else:
            missing[position] = task.id
    if missing:
        raise _make_missing_error(missing, len(tasks), folder, job)
    return outputs


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


def _is_done(task: ImageTask, unit: DoneUnit, folder: str, states: SourceStates) -> bool:
    try:
        status = os.lstat(_output_path(folder, unit))
    except OSError:
        return False
    has_size = stat.S_ISREG(status.st_mode) and status.st_size == unit.size
    return has_size and states.read(task.source_folder, task.source_name) == unit.source_state


def _output_path(folder: str, unit: DoneUnit) -> str:
    return os.path.join(folder, *unit.path.split("/"))
