"""The pip line that installs an extra of dni-deploy, from where this installation came from.

No package index need have dni-deploy, and one that has a package of this name may have another's. So a line names the checkout or
the wheel where it is still there, and else the packages that make up the extra. Double quotes mean the same to every shell.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import Distribution

DISTRIBUTION_NAME = "dni-deploy"

_EXTRA_PATTERN = re.compile(r"""extra\s*==\s*["']([^"']+)["']""")
_OWN_EXTRAS_PATTERN = re.compile(r"dni[-_]deploy\[([^\]]*)\]")


def format_install_line(extra: str) -> str:
    """Formats the command that installs an extra, such as `pip install "/home/me/dni-deploy[video]"`."""
    return f"pip install {format_requirement(extra)}"


def format_requirement(extra: str) -> str:
    """Formats what to give to `pip install` for an extra.

    Args:
        extra: The extra, one of pyproject.toml.

    Returns:
        A quoted path with the extra, after -e where changes of the checkout are to count; or the extra's packages, quoted.
    """
    checkout = _find_checkout()
    if checkout is not None:
        return f'-e "{checkout}[{extra}]"'
    distribution = _find_distribution()
    if distribution is None:
        return f'"{DISTRIBUTION_NAME}[{extra}]"'
    origin = _find_origin(distribution)
    if origin is not None:
        return f'"{origin}[{extra}]"'
    packages = list(dict.fromkeys(_list_packages(distribution.requires or [], extra)))
    return " ".join(f'"{package}"' for package in packages) or f'"{DISTRIBUTION_NAME}[{extra}]"'


def _find_checkout() -> Path | None:
    """The folder of the source that runs, where it is one."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").is_file() else None


def _find_distribution() -> Distribution | None:
    from importlib.metadata import PackageNotFoundError, distribution  # 10 ms that only a line that is printed costs

    try:
        return distribution(DISTRIBUTION_NAME)
    except PackageNotFoundError:
        return None


def _find_origin(distribution: Distribution) -> Path | None:
    """The folder or wheel that pip installed from, where it is still there (PEP 610)."""
    from urllib.parse import unquote, urlsplit

    try:
        address = json.loads(distribution.read_text("direct_url.json") or "{}")["url"]
        parts = urlsplit(address)
        path = Path(unquote(parts.path).lstrip("/") if os.name == "nt" else unquote(parts.path))  # /C:/Users of Windows
        return path if parts.scheme == "file" and path.exists() else None
    except (KeyError, TypeError, ValueError, OSError):
        return None


def _list_packages(requirements: list[str], extra: str) -> Iterator[str]:
    """Lists the packages of an extra, those of its own extras included."""
    for requirement in requirements:
        package, _, marker = requirement.partition(";")
        found = _EXTRA_PATTERN.search(marker)
        if found is None or found[1] != extra:
            continue
        own = _OWN_EXTRAS_PATTERN.match(package)
        if own is None:
            yield package.strip()
        else:
            for name in own[1].split(","):
                yield from _list_packages(requirements, name.strip())
