"""The files of a site, and the folder in which they lie.

What holds the network has the first digits of its SHA-256 in its name, so that a browser or a server that keeps files never mixes two
versions; site.json, written last, names them all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from dni_deploy._version import __version__
from dni_deploy.errors import UsageError, escape_name
from dni_deploy.reports.page import fill_template
from dni_deploy.utils.atomic_write import sync_folder, write_bytes, write_bytes_atomically, write_folder_atomically
from dni_deploy.website.network import WebNetwork

SITE_FORMAT = "dni-deploy site"
SITE_FILE_NAME = "site.json"
RUNTIME_FOLDER = "runtime"
SHARED_PAGE_FILES = ("controls.js", "page.css")
"""Of the live page, which the site's page has, too."""
MAX_SITE_FILE_BYTES = 16 << 20
"""Of the site.json of a site that is replaced."""

SiteFiles = dict[str, bytes]
"""Content by path in the site's folder, with forward slashes."""


def make_page_files(title: str, members: tuple[str, ...]) -> SiteFiles:
    """Makes the page: its markup with the title, its style sheets and its modules.

    Args:
        title: The heading.
        members: Names of the members.

    Returns:
        The files.
    """
    own, live = files("dni_deploy.website") / "page", files("dni_deploy.webui") / "page"
    page = {each.name: each.read_bytes() for each in own.iterdir() if each.is_file()}
    page |= {name: (live / name).read_bytes() for name in SHARED_PAGE_FILES}
    values = {
        "title": title,
        "lead": f"{', '.join(members)}: blended in your browser",
        "members": " and ".join([", ".join(members[:-1]), members[-1]]),
        "version": __version__,
    }
    page["index.html"] = fill_template(page["index.html"].decode("utf-8"), values).encode("utf-8")
    return page


def make_data_files(network: WebNetwork, sample_png: bytes, facts: Mapping[str, Any]) -> SiteFiles:
    """Makes what the page reads: the network, the sample picture, and site.json, which is the last one.

    Args:
        network: The network.
        sample_png: The sample picture as PNG.
        facts: What site.json holds besides.

    Returns:
        The files, without those of the page and of the runtime.
    """
    data: SiteFiles = {}

    def add_file(stem: str, suffix: str, content: bytes) -> dict[str, Any]:
        name = f"{stem}-{sha256(content).hexdigest()[:16]}.{suffix}"
        data[name] = content
        return {"file": name, "size": len(content)}

    site = {
        "format": SITE_FORMAT,
        "version": 1,
        **network.facts,
        "graph": add_file("network", "onnx", network.graph.SerializeToString(deterministic=True)),
        "member_files": [
            add_file(f"member{index}", "bin", row.astype("<f4", copy=False).tobytes())
            for index, row in enumerate(network.members)
        ],
        "statistics": add_file("statistics", "bin", network.statistics.astype("<f8", copy=False).tobytes()),
        **facts,
    }
    site["sample"] = {**facts["sample"], **add_file("sample", "png", sample_png)}
    data[SITE_FILE_NAME] = json.dumps(site, allow_nan=False).encode("ascii")
    return data


def write_site(folder: Path, site_files: SiteFiles, *, force: bool) -> None:
    """Writes a site. A new one appears whole; in one that exists, site.json is replaced last.

    Files that others put into the folder stay; those of the old site that the new one lacks are removed.

    Args:
        folder: The folder.
        site_files: Every file; site.json gets their names.
        force: Replace a site that exists; anything else there never is.

    Raises:
        UsageError: Something exists at `folder`.
        LimitError: There is no room.
        InputError: The folder cannot be written.
    """
    described = json.loads(site_files[SITE_FILE_NAME])
    described["files"] = sorted(site_files)
    site_files = {**site_files, SITE_FILE_NAME: json.dumps(described, allow_nan=False).encode("ascii")}
    if not force or not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        with write_folder_atomically(folder, force=force) as temporary:
            for name, content in site_files.items():
                (temporary / name).parent.mkdir(exist_ok=True)
                write_bytes(temporary / name, content)
        return
    old_names = read_site_file_names(folder)
    (folder / RUNTIME_FOLDER).mkdir(exist_ok=True)
    for name in sorted(site_files, key=lambda name: name == SITE_FILE_NAME):
        write_bytes_atomically(folder / name, site_files[name], force=True)
    for name in set(old_names) - site_files.keys():
        (folder / name).unlink(missing_ok=True)
    sync_folder(folder)


def check_site_folder(folder: Path, *, force: bool) -> None:
    """Checks before any work that a site can be written to a folder.

    Raises:
        UsageError: Something exists there that may not be replaced, or the folder around it does not exist.
    """
    if not folder.absolute().parent.is_dir():
        raise UsageError(f"The folder of {escape_name(folder)} does not exist. Nothing was written.")
    if not os.path.lexists(folder) or (folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()) and force):
        return
    if not force:
        raise UsageError(
            f"{escape_name(folder)} exists; give --force to replace a site, or name another folder. Nothing was written."
        )
    read_site_file_names(folder)


def read_site_file_names(folder: Path) -> list[str]:
    """Reads which files of a folder belong to the site in it.

    Raises:
        UsageError: The folder holds no site.
    """
    try:
        if folder.is_symlink() or (folder / SITE_FILE_NAME).stat().st_size > MAX_SITE_FILE_BYTES:
            raise ValueError
        site = json.loads((folder / SITE_FILE_NAME).read_bytes())
        if site["format"] != SITE_FORMAT:
            raise ValueError
        return [name for name in site["files"] if _is_site_path(name)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(
            f"{escape_name(folder)} holds something other than a site of `dni-deploy web`, which is never replaced; name another "
            "folder. Nothing was written."
        ) from None


def _is_site_path(name: object) -> bool:
    """Whether a name is one that a site may have: a file in the folder or in the runtime's folder, and no way out of it."""
    if not isinstance(name, str):
        return False
    parts = name.split("/")
    plain = all(part not in ("", ".", "..") and "\\" not in part and ":" not in part and "\0" not in part for part in parts)
    return plain and (len(parts) == 1 or (len(parts) == 2 and parts[0] == RUNTIME_FOLDER))


def list_sizes(site_files: SiteFiles) -> Iterator[tuple[str, int]]:
    """Lists the sizes of the runtime, the network and the page with its picture, in bytes."""
    groups = {"runtime": 0, "network": 0, "page": 0}
    for name, content in site_files.items():
        is_network = name.startswith(("network-", "member", "statistics-"))
        groups["runtime" if name.startswith(f"{RUNTIME_FOLDER}/") else "network" if is_network else "page"] += len(content)
    yield from groups.items()
