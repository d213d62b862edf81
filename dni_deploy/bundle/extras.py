"""Extras: what is added to a bundle after its export, or taken away: re-estimated BatchNorm statistics, a slider's knots.

An extra belongs to the very graph and members that it was made from: it is not added to a bundle that was replaced meanwhile, and an
export into the same folder drops it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from dni_deploy.bundle.bundle import Bundle, replace_files
from dni_deploy.bundle.manifest import MANIFEST_FILE_NAME, Manifest, StoredFile, parse_slider_points
from dni_deploy.errors import UsageError, escape_name


def store_recalibration(bundle: Bundle, data: bytes | None) -> Bundle:
    """Add the bytes of a recalibration file to the bundle's folder, in place of the one that is there; None takes that away.

    Returns the bundle as it is then, opened; its digest is another one. The change is one step: a crash leaves the old one or the
    new one. Raises UsageError (the bundle was replaced since it was opened, or is being written), LimitError, InputError.
    """
    stored = (
        None if data is None else StoredFile.from_digest("recalibration", "safetensors", sha256(data).hexdigest(), len(data))
    )

    def change(old: Manifest) -> Iterator[tuple[str, bytes]]:
        if stored is not None and data is not None:
            yield stored.file, data
        yield MANIFEST_FILE_NAME, replace(old, recalibration=stored).to_bytes()

    return _apply_change(bundle, change)


def store_slider(
    bundle: Bundle, points: Sequence[tuple[float, float]] | None, about: Mapping[str, Any] | None = None
) -> Bundle:
    """Add a slider's knots, (position, alpha) each, or replace those that are there; None takes them away.

    about  what they were measured on and how even they make the steps, as JSON; it is told and never computed with.
    Raises as store_recalibration does, and BundleError for knots that no manifest may hold: fewer than two, or beyond 0 to 1.
    """
    slider = None if points is None else parse_slider_points([[float(position), float(alpha)] for position, alpha in points])

    def change(old: Manifest) -> Iterator[tuple[str, bytes]]:
        yield MANIFEST_FILE_NAME, replace(old, slider=slider, slider_about=None if slider is None else about).to_bytes()

    return _apply_change(bundle, change)


def _apply_change(bundle: Bundle, change: Callable[[Manifest], Iterator[tuple[str, bytes]]]) -> Bundle:
    def make_files(old: Manifest) -> Iterator[tuple[str, bytes]]:
        if _without_attachments(old) != _without_attachments(bundle.manifest):
            raise UsageError(
                f"{escape_name(bundle.path)} was replaced since it was opened, so that nothing made from it can be added; open it again. "
                "Nothing was written."
            )
        yield from change(old)

    replace_files(bundle.path, make_files)
    return Bundle.open(bundle.path)


def _without_attachments(manifest: Manifest) -> Manifest:
    return replace(manifest, recalibration=None, slider=None, slider_about=None)
