"""A model repository of Triton Inference Server: a folder with a folder for each model, and in that one for each version.

sr/config.pbtxt             what Triton reads: inputs, outputs, instances, queue
sr/probe.py, probe.json     asks the model for an inference, and reloads it where it has died
sr/perf_analyzer.json       requests for NVIDIA's load generator
sr/1/model.py               what Triton runs
sr/1/bundle.dni/            a copy of the bundle
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.folder import MANIFEST_FILE_NAME
from dni_deploy.bundle.stored_file import read_verified
from dni_deploy.errors import BundleError, UsageError, escape_name
from dni_deploy.model_repository.model_config import (
    CONFIG_HEADER,
    ModelOptions,
    format_config,
    list_inputs,
    make_probe_request,
)
from dni_deploy.model_repository.served_model import BUNDLE_NAME
from dni_deploy.utils.atomic_write import make_folder, write_bytes, write_bytes_atomically, write_folder_atomically

MODEL_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
"""What is a name of a folder on every disk, and needs no escaping in a config.pbtxt, an address or a shell."""

CONFIG_NAME, MODEL_FILE_NAME, PROBE_FILE_NAME = "config.pbtxt", "model.py", "probe.py"

PERF_ALPHAS = 16
PERF_SIDES_PX = (24, 32)
"""Height and width of the images of perf_analyzer.json, before they are rounded up to what the network takes."""


class WrittenModel(NamedTuple):
    """A version that was written.

    Attributes:
        folder: Of the model.
        version: Its number.
        older_versions: Those that were there before and still are.
    """

    folder: Path
    version: int
    older_versions: tuple[int, ...]


def check_model_name(name: str) -> None:
    """Checks the name of a model.

    Raises:
        UsageError: It is none.
    """
    if MODEL_NAME_PATTERN.fullmatch(name) is None:
        raise UsageError(
            f"{escape_name(name, 100)!r} is no name for a model: letters, digits, dots, hyphens and underscores, at most 100; "
            "give one with --name."
        )


def write_model(repository: Path, name: str, bundle: Bundle, options: ModelOptions, *, force: bool) -> WrittenModel:
    """Writes a bundle as a model, or as the next version of one that exists.

    Each version appears whole. In a model that exists, the new version is written first, and then the model's other files; older
    versions stay, and Triton serves the newest one only.

    Args:
        repository: The model repository; made where its folder exists.
        name: Of the model.
        bundle: The bundle.
        options: How Triton runs it.
        force: Whether a version may be added to a model that exists.

    Returns:
        What was written.

    Raises:
        UsageError: The name is none, the model exists, or something else has its name.
        MismatchError: The network takes no images, and the options are not raw.
        BundleError: The bundle was changed since it was opened.
        LimitError: There is no room.
        InputError: The folder cannot be written.
    """
    check_model_name(name)
    model_files = make_model_files(name, bundle, options)
    folder = repository / name
    check_repository(repository)
    exists = os.path.lexists(folder)
    older = find_versions(folder, force=force) if exists else ()
    version = max(older, default=0) + 1
    with ExitStack() as stack:
        if not exists:
            stack.enter_context(make_folder(repository))
            temporary = stack.enter_context(write_folder_atomically(folder))
            for file_name, data in model_files.items():
                write_bytes(temporary / file_name, data)
            version_folder = temporary / str(version)
            version_folder.mkdir()
        else:
            version_folder = stack.enter_context(write_folder_atomically(folder / str(version)))
        write_bytes(version_folder / MODEL_FILE_NAME, _read_own_file(MODEL_FILE_NAME))
        (version_folder / BUNDLE_NAME).mkdir()
        for file_name, data in read_bundle_files(bundle):
            write_bytes(version_folder / BUNDLE_NAME / file_name, data)
    if exists:
        for file_name, data in model_files.items():
            write_bytes_atomically(folder / file_name, data, force=True)
    return WrittenModel(folder, version, older)


def check_repository(folder: Path) -> None:
    """Checks that a folder is one or can be made.

    Raises:
        UsageError: It is something else, or the folder around it does not exist.
    """
    if not folder.is_dir() and (os.path.lexists(folder) or not folder.absolute().parent.is_dir()):
        what = "is no folder" if os.path.lexists(folder) else "cannot be made: the folder around it does not exist"
        raise UsageError(f"{escape_name(folder)} {what}. Nothing was written.")


def find_versions(folder: Path, *, force: bool) -> tuple[int, ...]:
    """Finds the versions of a model that exists, which a new one joins.

    Raises:
        UsageError: `force` is off, or it is not a model of ours.
    """
    try:
        is_ours = (folder / CONFIG_NAME).read_text(encoding="utf-8").startswith(CONFIG_HEADER) and not folder.is_symlink()
    except (OSError, ValueError):
        is_ours = False
    if not is_ours:
        raise UsageError(
            f"{escape_name(folder)} is not a model that `dni-deploy triton` wrote, and is left as it is; name another with "
            "--name. Nothing was written."
        )
    versions = tuple(sorted(int(each.name) for each in folder.iterdir() if re.fullmatch(r"[1-9][0-9]{0,17}", each.name)))
    if not force:
        raise UsageError(
            f"{escape_name(folder)} exists; --force adds the bundle as version {max(versions, default=0) + 1} of it, or name "
            "another with --name. Nothing was written."
        )
    return versions


def make_model_files(name: str, bundle: Bundle, options: ModelOptions) -> dict[str, bytes]:
    """Makes the files of a model besides its versions, by name; errors are those of `write_model`."""
    members = len(bundle.members)
    return {
        CONFIG_NAME: format_config(name, bundle.signature, options).encode("ascii"),
        PROBE_FILE_NAME: _read_own_file(PROBE_FILE_NAME),
        "probe.json": _format_json(make_probe_request(bundle.signature, members, raw=options.raw)),
        "perf_analyzer.json": _format_json(make_perf_requests(bundle, options)),
    }


def make_perf_requests(bundle: Bundle, options: ModelOptions) -> dict[str, Any]:
    """Makes requests for `perf_analyzer --input-data`: one image at several alphas, from the first member to the last."""
    signature, members = bundle.signature, len(bundle.members)
    height, width = (1 if signature.kind == "latent" else signature.round_up_side(side) for side in PERF_SIDES_PX)
    shape = [signature.frame_batch, signature.input_channels, height, width] if options.raw else [height, width, 3]
    content = [index * 37 % 256 for index in range(math.prod(shape))]
    image = {"content": [value / 255 for value in content] if options.raw else content, "shape": shape}
    name = list_inputs(signature, raw=options.raw)[0].name
    rows = []
    for step in range(PERF_ALPHAS):
        share = step / (PERF_ALPHAS - 1)
        alpha = [1 - share] if members == 2 else [1 - share, *[0.0] * (members - 2), share]
        rows.append({name: image, "alpha": {"content": alpha, "shape": [len(alpha)]}})
    return {"data": rows}


def read_bundle_files(bundle: Bundle) -> Iterator[tuple[str, bytes]]:
    """Reads name and content of each file of a bundle, the manifest last; only one is in memory at a time.

    Raises:
        BundleError: The bundle was changed since it was opened.
        RefusedError: A file of it is a link by now.
    """
    for stored in bundle.manifest.files:
        yield stored.file, read_verified(bundle.path, stored)
    manifest = read_verified(bundle.path, None)
    if sha256(manifest).hexdigest() != bundle.digest:
        raise BundleError(f"{escape_name(bundle.path)} was replaced while it was copied; try again.")
    yield MANIFEST_FILE_NAME, manifest


def _read_own_file(name: str) -> bytes:
    return (files("dni_deploy.model_repository") / name).read_bytes()


def _format_json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode("ascii")
