"""Which image is read and which file is written for it, planned before anything is done."""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from dni_deploy.errors import InputError, UsageError, escape_name
from dni_deploy.imaging.image_formats import FORMAT_BY_SUFFIX, ImageFormat, output_format
from dni_deploy.imaging.image_paths import Paths, as_path_list, read_folder_id, scan_images

FORMAT_NAMES = ("same", *(suffix[1:] for suffix in FORMAT_BY_SUFFIX))
"""The formats that outputs in a folder may be given; "same" is the input's own."""

FALLBACK_SUFFIX = ".png"
"""The format of an output in a folder whose own format cannot hold the image."""

SKIP_REASONS = {
    "exists": "outputs exist",
    "done": "done before",
    "earlier_output": "outputs of an earlier run",
    "not_image": "not images",
    "linked_folder": "links to folders",
    "unreadable_folder": "unreadable folders",
}
"""Why something in a folder is left out, for a program and for people."""

_NamesByFolder = Mapping[str, Collection[str]]
"""Names of files by the real path of their folder."""


@dataclass(frozen=True)
class ImageFileOptions:
    """Which images of folders are processed, and how outputs are named, sized and encoded.

    Attributes:
        recursive: Also process the folders in a folder, and keep their structure. Links to folders are not followed.
        skip_existing: Leave out images whose output exists: outputs appear complete, so it is what an earlier run wrote.
        file_format: One of FORMAT_NAMES, for outputs in a folder; None is "same".
        quality: 1 to 100, for JPEG (95 without it) and for WebP, which is lossless without it.
        suffix: Text between name and format of an output in a folder, such as "_x4".
        outscale: Width and height of an output, in those of its input; the network's output is resized by Lanczos.
        size: Width and height of every output in pixels, likewise.
        strip: Leave out EXIF, XMP, IPTC, resolution and texts; what the colors mean stays, and the image is upright.
        max_pixels: The most pixels of an output; None for DNI_MAX_PIXELS, or without it what the free memory holds.
    """

    recursive: bool = False
    skip_existing: bool = False
    file_format: str | None = None
    quality: int | None = None
    suffix: str = ""
    outscale: float | None = None
    size: tuple[int, int] | None = None
    strip: bool = False
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        if self.file_format is not None and self.file_format not in FORMAT_NAMES:
            raise UsageError(f"{escape_name(self.file_format)!r} names no image format; use one of {', '.join(FORMAT_NAMES)}.")
        if self.quality is not None and not (isinstance(self.quality, int) and 1 <= self.quality <= 100):
            raise UsageError(f"The quality is a whole number from 1 to 100, got {escape_name(self.quality)}.")
        if any(character in self.suffix for character in ("/", "\\", "\0")):
            raise UsageError(f"The suffix {escape_name(self.suffix)!r} is a part of a file name and holds no separator.")
        if self.outscale is not None and not (self.outscale > 0 and math.isfinite(self.outscale)):
            raise UsageError(f"The scale of the output is a number above 0, got {escape_name(self.outscale)}.")
        if self.size is not None and min(self.size) < 1:
            raise UsageError(f"An output has at least 1x1 pixels, got {escape_name(self.size)}.")
        if self.max_pixels is not None and self.max_pixels < 1:
            raise UsageError(f"The most pixels of an output are a number above 0, got {escape_name(self.max_pixels)}.")
        if self.size is not None and self.outscale is not None:
            raise UsageError("--size and --outscale both set the size of the output; give one of them.")

    @property
    def image_format(self) -> ImageFormat | None:
        """The format of outputs in a folder; None where each has that of its input."""
        return None if self.file_format in (None, "same") else FORMAT_BY_SUFFIX[f".{self.file_format}"]

    def make_output_name(self, name: str) -> str:
        """Makes the name of an output in a folder: the input's own wherever its suffix can stay."""
        stem, source_suffix = os.path.splitext(name)
        own_format = FORMAT_BY_SUFFIX.get(source_suffix.lower())
        if own_format is None or self.image_format not in (None, own_format):
            source_suffix = FALLBACK_SUFFIX if self.image_format is None else f".{self.file_format}"
        output_name = stem + self.suffix + source_suffix
        return name if output_name == name else output_name  # one string for both

    def compute_output_size(self, width: int, height: int) -> tuple[int, int] | None:
        """Returns width and height of the output of an image; None where the network's is not resized."""
        if self.outscale is not None:
            return max(round(width * self.outscale), 1), max(round(height * self.outscale), 1)
        return self.size


class ImageTask(NamedTuple):
    """One image to read and the file to write, a unit of a job; of a million of them, the folders are shared.

    Attributes:
        source_folder: Folder of the image.
        source_name: Its name in it.
        output_root: The folder that gets all outputs.
        relative_folder: Folder of the output below that, which may have to be made; "" for itself.
        output_name: Name of the output in it.
        is_fallback_taken: Whether another output has the name that this one would get in FALLBACK_SUFFIX.
    """

    source_folder: str
    source_name: str
    output_root: str
    relative_folder: str
    output_name: str
    is_fallback_taken: bool = False

    @property
    def id(self) -> str:
        """Path of the output below the folder of all outputs, with slashes, the same on every system."""
        return make_unit_id(self.relative_folder, self.output_name)

    @property
    def source(self) -> str:
        """Path of the image."""
        return os.path.join(self.source_folder, self.source_name)

    @property
    def output_folder(self) -> str:
        """Folder of the output."""
        return os.path.join(self.output_root, self.relative_folder) if self.relative_folder else self.output_root

    @property
    def output(self) -> str:
        """Path of the output."""
        return os.path.join(self.output_folder, self.output_name)

    @property
    def fallback_name(self) -> str:
        """Name of the output where its own format cannot hold the image."""
        return os.path.splitext(self.output_name)[0] + FALLBACK_SUFFIX

    @property
    def fallback(self) -> str | None:
        """Path of the output in a folder where its own format cannot hold the image; None where that is its own path."""
        return None if self.fallback_name == self.output_name else os.path.join(self.output_folder, self.fallback_name)


def make_unit_id(folder: str, name: str) -> str:
    """Makes the id of a unit of the path of its output: relative, and with slashes."""
    path = os.path.join(folder, name)
    return path if os.sep == "/" else path.replace(os.sep, "/")


@dataclass(frozen=True)
class ImagePlan:
    """What is to be done.

    Attributes:
        tasks: In their order.
        folder: The folder that gets the outputs; None where one named file is written.
        skipped: Paths that are left out, by reason (a key of SKIP_REASONS).
    """

    tasks: tuple[ImageTask, ...]
    folder: str | None
    skipped: dict[str, tuple[str, ...]] = field(default_factory=dict)


class _Source(NamedTuple):
    """An image to read, the place of its folder below the one that was named, and whether it is a symbolic link."""

    folder: str
    name: str
    relative: str
    is_link: bool

    @classmethod
    def from_path(cls, path: Path) -> _Source:
        """Describes an image that was named itself."""
        return cls(*os.path.split(path), "", path.is_symlink())


def plan_image_tasks(
    inputs: Paths,
    output: str | os.PathLike[str],
    options: ImageFileOptions | None = None,
    *,
    force: bool = False,
    resume: bool = False,
    other_inputs: Sequence[str | os.PathLike[str]] = (),
) -> ImagePlan:
    """Plans which image is written where; touches nothing.

    Every folder is listed once, however many files it holds.

    Args:
        inputs: A file, a folder, or several.
        output: A file to write where a single file is read, and otherwise a folder. A folder that exists, a trailing separator
            or a name without a suffix mean a folder, too.
        options: Which images, and how outputs are named.
        force: Outputs may exist.
        resume: Outputs may exist, since their job tells which of them it made.
        other_inputs: Further files that are no output.

    Returns:
        The plan.

    Raises:
        UsageError: Outputs exist, coincide, are inputs or have no known format; or an option has no use here.
        InputError: An input is missing, or a folder holds no image.
    """
    options = options or ImageFileOptions()
    input_paths = as_path_list(inputs)
    if not input_paths:
        raise UsageError("There is no input; name an image or a folder.")
    missing = [path for path in input_paths if not os.path.lexists(path)]
    if missing:
        raise InputError(f"{escape_name(missing[0])} does not exist{_format_others(len(missing))}. Nothing was written.")
    if (force or resume) and options.skip_existing:
        other = "--force replaces outputs that exist" if force else "--resume does those anew that its job has not finished"
        raise UsageError(f"{other} and --skip-existing leaves them; give one of them.")
    skipped: dict[str, list[str]] = {}
    folder = _choose_folder(input_paths, os.fspath(output))
    if folder is None:
        sources = [_Source.from_path(input_paths[0])]
        tasks = [_plan_single_file(sources[0], Path(output), options)]
    else:
        sources = list(_find_sources(input_paths, folder, options, skipped))
        tasks = _plan_folder(sources, folder, options)
    _check_quality(tasks, options)
    existing = _check_tasks(sources, tasks, other_inputs)
    if options.skip_existing and folder is not None:
        existing = _add_fallbacks(tasks, existing)
    if existing and options.skip_existing:
        skipped["exists"] = [tasks[index].output for index in sorted(existing)]
        tasks = [task for index, task in enumerate(tasks) if index not in existing]
    elif existing and not force and not resume:
        path, ways = tasks[min(existing)].output, "--force to replace or --skip-existing to leave what exists"
        resume_hint = "" if folder is None else "--resume to go on with a run that was stopped, "
        raise UsageError(
            f"{escape_name(path)} exists{_format_others(len(existing))}; give {resume_hint}{ways}. Nothing was written."
        )
    return ImagePlan(tuple(tasks), folder, {reason: tuple(names) for reason, names in skipped.items()})


def _choose_folder(input_paths: Sequence[Path], output: str) -> str | None:
    """Returns the folder that gets the outputs; None where `output` is the file to write."""
    is_named_folder = output.endswith(("/", os.sep)) or not os.path.splitext(output)[1] or os.path.isdir(output)
    if len(input_paths) == 1 and not is_named_folder and not input_paths[0].is_dir():
        return None
    if os.path.lexists(output.rstrip("/" + os.sep) or output) and not os.path.isdir(output):
        raise UsageError(f"{escape_name(output)} is a file; several images need a folder. Nothing was written.")
    return output


def _plan_single_file(source: _Source, output: Path, options: ImageFileOptions) -> ImageTask:
    if options.suffix or options.recursive:
        name = "--suffix" if options.suffix else "--recursive"
        raise UsageError(f"{name} is for folders, and {escape_name(output)} names the file to write. Nothing was written.")
    try:
        named_format = output_format(output)
    except UsageError as error:
        raise UsageError(f"{error} For a folder of this name, write {escape_name(output)}/") from None
    if options.image_format not in (None, named_format):
        raise UsageError(
            f"{escape_name(output)} names one format and --format {options.file_format} another; give one of them."
        )
    if not output.parent.is_dir():
        raise UsageError(f"The folder {escape_name(output.parent)} does not exist. Nothing was written.")
    folder, name = os.path.split(output)
    return ImageTask(source.folder, source.name, folder, "", name)


def _plan_folder(sources: Sequence[_Source], folder: str, options: ImageFileOptions) -> list[ImageTask]:
    return [
        ImageTask(source.folder, source.name, folder, source.relative, options.make_output_name(source.name))
        for source in sources
    ]


def _find_sources(
    input_paths: Sequence[Path], output_folder: str, options: ImageFileOptions, skipped: dict[str, list[str]]
) -> Iterator[_Source]:
    """Finds the images of files and folders, and notes what folders hold besides."""
    output_id = read_folder_id(output_folder)
    for path in input_paths:
        if not path.is_dir():
            yield _Source.from_path(path)
            continue
        # The outputs of an earlier run may lie below the input, or beside it in the same folder.
        for scanned in scan_images(path, recursive=options.recursive, excluded=output_id):
            is_output_folder = bool(options.suffix) and read_folder_id(scanned.path) == output_id
            for name in scanned.images:
                if is_output_folder and os.path.splitext(name)[0].endswith(options.suffix):
                    skipped.setdefault("earlier_output", []).append(os.path.join(scanned.path, name))
                else:
                    yield _Source(scanned.path, name, scanned.relative, name in scanned.links)
            for name in scanned.others:
                skipped.setdefault("not_image", []).append(os.path.join(scanned.path, name))
            for reason, names in (("linked_folder", scanned.linked_folders), ("unreadable_folder", scanned.unreadable_folders)):
                for name in names:
                    skipped.setdefault(reason, []).append(os.path.join(scanned.path, name))


def _check_quality(tasks: Sequence[ImageTask], options: ImageFileOptions) -> None:
    if options.quality is None or not tasks:
        return
    suffixes = {os.path.splitext(task.output_name)[1].lower() for task in tasks}
    if not any(FORMAT_BY_SUFFIX[suffix].lossy_options is not None for suffix in suffixes):
        names = ", ".join(sorted({FORMAT_BY_SUFFIX[suffix].name for suffix in suffixes}))
        raise UsageError(f"--quality is for JPEG and WebP; {names} is written without loss. Nothing was written.")


class _OutputFolder:
    """One folder of outputs: what is in it, and what will be."""

    def __init__(self, path: str, input_names: _NamesByFolder) -> None:
        self.path = path
        self.task_by_name: dict[str, int] = {}
        self._fallback_names: set[str] = set()
        self._input_names = input_names
        self._own_input_names = {_fold(name): name for name in input_names.get(os.path.realpath(path), ())}
        self._link_by_name: dict[str, bool] = {}
        if os.path.isdir(path or "."):
            with os.scandir(path or ".") as entries:
                self._link_by_name = {entry.name: entry.is_symlink() for entry in entries}

    @cached_property
    def _folded_names(self) -> set[str]:
        return {_fold(name) for name in self._link_by_name}

    def exists(self, name: str, folded: str) -> bool:
        """Tells whether a name is there, also on a disk that does not tell cases apart."""
        if name in self._link_by_name:
            return True
        return folded in self._folded_names and os.path.lexists(os.path.join(self.path, name))

    def take_fallback(self, name: str) -> bool:
        """Reserves a name for an output whose own format may not hold the image; returns whether it is no other output's."""
        folded = _fold(name)
        is_free = folded not in self.task_by_name and folded not in self._fallback_names
        self._fallback_names.add(folded)
        return is_free

    def is_input(self, name: str, folded: str) -> bool:
        """Tells whether a name is that of an input, or a link to one."""
        if self._link_by_name.get(name):
            folder, target = os.path.split(os.path.realpath(os.path.join(self.path, name)))
            return target in self._input_names.get(folder, ())
        twin = self._own_input_names.get(folded)
        if twin is None or twin == name:
            return twin is not None
        path = os.path.join(self.path, name)
        return os.path.exists(path) and os.path.samefile(path, os.path.join(self.path, twin))


def _check_tasks(
    sources: Sequence[_Source], tasks: list[ImageTask], other_inputs: Sequence[str | os.PathLike[str]]
) -> set[int]:
    """Checks that no output is an input or another output; returns the numbers of the tasks whose output exists.

    It marks the tasks whose output cannot become another format, since the name is taken.
    """
    input_names = _list_input_names(sources, other_inputs)
    folders: dict[str, _OutputFolder] = {}
    existing = set()
    for index, task in enumerate(tasks):
        folder = folders.get(task.relative_folder)
        if folder is None:
            folder = folders[task.relative_folder] = _OutputFolder(task.output_folder, input_names)
        folded = _fold(task.output_name)
        if folder.is_input(task.output_name, folded):
            raise UsageError(f"{escape_name(task.output)} is an input, too; choose another output. Nothing was written.")
        twin = folder.task_by_name.setdefault(folded, index)
        if twin != index:
            raise UsageError(
                f"{escape_name(tasks[twin].source)} and {escape_name(task.source)} would both be written to "
                f"{escape_name(task.output)}. Nothing was written."
            )
        if folder.exists(task.output_name, folded):
            existing.add(index)
    for index, task in enumerate(tasks):
        if task.fallback_name != task.output_name and not folders[task.relative_folder].take_fallback(task.fallback_name):
            tasks[index] = task._replace(is_fallback_taken=True)
    return existing


def _list_input_names(sources: Sequence[_Source], other_inputs: Sequence[str | os.PathLike[str]]) -> _NamesByFolder:
    """Lists the names of all inputs by their real folders, each of which is resolved once."""
    names: dict[str, set[str]] = {}
    names_by_path: dict[str, set[str]] = {}
    for source in sources:
        in_folder = names_by_path.get(source.folder)
        if in_folder is None:
            in_folder = names_by_path[source.folder] = names.setdefault(os.path.realpath(source.folder), set())
        in_folder.add(source.name)
    linked = [os.path.join(source.folder, source.name) for source in sources if source.is_link]
    for path in (*linked, *other_inputs):
        folder, name = os.path.split(os.path.realpath(path))
        names.setdefault(folder, set()).add(name)
    return names


def _add_fallbacks(tasks: Sequence[ImageTask], existing: set[int]) -> set[int]:
    """Adds the tasks whose output an earlier run wrote in another format, since its own could not hold it."""
    return existing | {
        index
        for index, task in enumerate(tasks)
        if index not in existing
        and not task.is_fallback_taken
        and os.path.lexists(os.path.join(task.output_folder, task.fallback_name))
    }


def _fold(name: str) -> str:
    """Makes names equal that are one file on some disks: they differ only in case, or in how a letter's accent is stored."""
    return name.casefold() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


def _format_others(count: int) -> str:
    return "" if count == 1 else f", and {count - 1} more"
