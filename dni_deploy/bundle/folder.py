"""What is given for a bundle and is none: it is named, with what to do."""

from __future__ import annotations

import os
import shlex
from itertools import islice
from pathlib import Path

from dni_deploy.errors import BundleError, escape_name
from dni_deploy.utils.address import WEB_SCHEMES, Location, as_location, read_scheme
from dni_deploy.utils.near_names import suggest_name

MANIFEST_FILE_NAME = "manifest.json"
MAX_LISTED_ENTRIES = 1000
"""How many entries of a folder are looked at for a near name."""

CHECKPOINT_SUFFIXES = frozenset({".pth", ".pt", ".ckpt", ".safetensors", ".onnx", ".param", ".pkl"})
ENGINE_SUFFIXES = frozenset({".plan", ".engine", ".trt"})
ARCHIVE_SUFFIXES = frozenset({".zip", ".tar", ".gz", ".tgz", ".xz", ".zst", ".7z", ".rar"})
PICTURE_SUFFIXES = frozenset(
    {
        ".png",
        ".jpg",
        ".jpeg",
        ".webp",
        ".tif",
        ".tiff",
        ".bmp",
        ".gif",
        ".avif",
        ".heic",
        ".mp4",
        ".mkv",
        ".mov",
        ".webm",
        ".y4m",
    }
)
WHAT_A_BUNDLE_IS = "a bundle is the folder that `dni-deploy export` writes"


def as_bundle_location(given: str | os.PathLike[str]) -> Location:
    """Tells the address of a bundle from its path, as `as_location` does.

    Raises:
        BundleError: It is an address on the web.
    """
    if read_scheme(os.fspath(given)) in WEB_SCHEMES:
        raise BundleError(
            f"{escape_name(given)} is an address, and nothing is downloaded: download the checkpoints, and export them."
        )
    return as_location(given)


def check_bundle_folder(path: Path) -> None:
    """Checks that a path is a folder; whether it is a bundle is read from its manifest.

    Args:
        path: What was given for a bundle.

    Raises:
        BundleError: It is no folder; the message says what it looks like, and what to do.
    """
    if path.is_dir():
        return
    name, suffix = escape_name(path), path.suffix.lower()
    if not os.path.lexists(path) and suffix not in CHECKPOINT_SUFFIXES:
        raise BundleError(f"{name} does not exist; {WHAT_A_BUNDLE_IS}{suggest_name(path.name, _list_bundles(path.parent))}")
    if suffix in CHECKPOINT_SUFFIXES:
        what = "is a file of weights, and a bundle is wanted" if path.exists() else "does not exist, and would be no bundle"
        line = f"dni-deploy export a={shlex.quote(name)} b=OTHER{suffix} -o NAME.dni"
        raise BundleError(f"{name} {what}. Make one of all members first: {line}.")
    if path.name == MANIFEST_FILE_NAME:
        raise BundleError(f"{name} is the table of contents of a bundle; give its folder, {escape_name(path.parent)}.")
    if suffix in ENGINE_SUFFIXES:
        raise BundleError(f"{name} is a built engine; give the bundle, the folder that it was built from.")
    if suffix in ARCHIVE_SUFFIXES:
        raise BundleError(f"{name} is an archive; unpack it, and give the folder in it.")
    if suffix in PICTURE_SUFFIXES:
        raise BundleError(
            f"{name} is a picture or a video; the bundle comes first, the folder that `dni-deploy export` writes."
        )
    raise BundleError(f"{name} is not a folder; {WHAT_A_BUNDLE_IS}.")


def _list_bundles(folder: Path) -> list[str]:
    """Lists the names of the bundles in a folder."""
    try:
        with os.scandir(folder) as entries:
            return [
                entry.name
                for entry in islice(entries, MAX_LISTED_ENTRIES)
                if os.path.isfile(Path(entry.path, MANIFEST_FILE_NAME))
            ]
    except OSError:
        return []
