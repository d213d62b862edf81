"""run: pictures through the network at one alpha."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dni_deploy.bundle import Bundle
from dni_deploy.coefficients import Alpha
from dni_deploy.errors import DniError, InputError, PartialResult, UsageError, shown
from dni_deploy.pictures import FORMATS, output_format, read_picture, write_picture
from dni_deploy.progress import MaybeProgress, tell
from dni_deploy.session import Session, open_session
from dni_deploy.tiling import count_tiles, run_tiled

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class Job:
    """One picture to read and the file that its output goes to."""

    source: Path
    target: Path


@dataclass(frozen=True)
class PictureRow:
    """One finished picture: files, output size in pixels, number of tiles, seconds in the network, what was converted."""

    source: str
    output: str
    width: int
    height: int
    tiles: int
    seconds: float
    notes: str


@dataclass(frozen=True)
class RunReport:
    """What was done: alpha by name, the engine, one row for each picture, and whole seconds without opening the engine.

    engine_why: how the engine came to be the one.
    skipped: files of the input folders that are no pictures by their name.
    """

    alpha: dict[str, float]
    engine: str
    engine_why: str
    pictures: tuple[PictureRow, ...]
    skipped: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run(
    bundle_path: Bundle | str | os.PathLike[str],
    inputs: Paths,
    output: str | os.PathLike[str],
    alpha: Alpha,
    *,
    engine: str = "auto",
    precision: str | None = None,
    device: int = 0,
    tile: int | None = None,
    overlap: int | None = None,
    threads: int = 0,
    extrapolate: bool = False,
    force: bool = False,
    progress: MaybeProgress = None,
) -> RunReport:
    """Process pictures at one alpha; the engine is opened once.

    inputs   a file, a folder, or several; of a folder, the pictures directly in it (by suffix), in order of their names.
    output   for a single file, the picture to write (its suffix is the format); else, or if such a folder exists, a folder
             that is made where needed and gets each picture under its own name.
    engine, precision, device   as in open_session.
    tile, overlap   input pixels, as in run_tiled; None: 512 of the output, and the network's radius.
    force    replace outputs that exist; an input is never replaced.
    Raises before anything is done: UsageError (outputs that exist, coincide or have no known format), InputError (an input is
    missing, a folder holds no picture), and what open_session raises. Where one of several pictures fails the others are still
    done, and then PartialResult tells how many and the first; where all fail, the first one's error.
    """
    jobs, skipped = plan(inputs, output, force)
    with open_session(
        bundle_path,
        engine=engine,
        alpha=alpha,
        threads=threads,
        extrapolate=extrapolate,
        precision=precision,
        device=device,
    ) as session:
        started = time.perf_counter()
        rows: list[PictureRow] = []
        failures: list[DniError] = []
        for done, job in enumerate(jobs):
            tell(progress, done, len(jobs), job.source.name)
            try:
                job.target.parent.mkdir(parents=True, exist_ok=True)
                rows.append(_picture(session, job, tile, overlap, force))
            except DniError as error:
                failures.append(error)
            except OSError as error:
                failures.append(InputError(f"{shown(error.filename or job.target)}: {error.strerror}."))
        tell(progress, len(jobs), len(jobs), "done")
        shares = dict(zip(session.members, session.alpha.shares, strict=True))
        report = RunReport(shares, session.engine.name, session.why, tuple(rows), skipped, time.perf_counter() - started)
    if failures and len(failures) == len(jobs):
        raise (
            failures[0] if len(jobs) == 1 else type(failures[0])(f"None of {len(jobs)} pictures was done. First: {failures[0]}")
        )
    if failures:
        raise PartialResult(
            f"{len(rows)} of {len(jobs)} pictures were done and are in {shown(jobs[0].target.parent)}, "
            f"{len(failures)} failed. First: {failures[0]}"
        )
    return report


def plan(inputs: Paths, output: str | os.PathLike[str], force: bool = False) -> tuple[list[Job], int]:
    """The jobs, and how many files of folders are no pictures. Touches nothing; raises as `run` does before it begins."""
    given = [Path(inputs)] if isinstance(inputs, (str, os.PathLike)) else [Path(path) for path in inputs]
    if not given:
        raise UsageError("There is no input; name a picture or a folder.")
    goal = Path(output)
    if len(given) == 1 and not given[0].is_dir() and not goal.is_dir() and goal.suffix:
        output_format(goal)
        if not goal.parent.is_dir():
            raise UsageError(f"The folder {shown(goal.parent)} does not exist. Nothing was written.")
        jobs, skipped = [Job(given[0], goal)], 0
    else:
        if goal.exists() and not goal.is_dir():
            raise UsageError(f"{shown(goal)} is a file; several pictures need a folder. Nothing was written.")
        sources, skipped = _sources(given)
        jobs = [Job(source, goal / source.name) for source in sources]
    _check(jobs, force)
    return jobs, skipped


def _sources(given: Iterable[Path]) -> tuple[list[Path], int]:
    sources: list[Path] = []
    skipped = 0
    for path in given:
        if not path.is_dir():
            output_format(path)  # it keeps its name, so its suffix is the output's format
            sources.append(path)
            continue
        try:
            files = sorted(entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith("."))
        except OSError as error:
            raise InputError(f"The folder {shown(path)} cannot be read ({error.strerror}).") from error
        pictures = [file for file in files if file.suffix.lower() in FORMATS]
        if not pictures:
            raise InputError(
                f"The folder {shown(path)} holds no picture ({', '.join(FORMATS)}); folders in it are not entered."
            )
        sources += pictures
        skipped += len(files) - len(pictures)
    return sources, skipped


def _check(jobs: Sequence[Job], force: bool) -> None:
    missing = [job.source for job in jobs if not os.path.lexists(job.source)]
    if missing:
        raise InputError(f"{shown(missing[0])} does not exist{_others(len(missing))}. Nothing was written.")
    inputs = {os.path.realpath(job.source) for job in jobs}
    taken: dict[str, Path] = {}
    for job in jobs:
        if os.path.realpath(job.target) in inputs:
            raise UsageError(f"{shown(job.target)} is an input, too; choose another output. Nothing was written.")
        # Two names that differ only in case are one file on some disks.
        twin = taken.setdefault(str(job.target).casefold(), job.source)
        if twin is not job.source:
            raise UsageError(
                f"{shown(twin)} and {shown(job.source)} would both be written to {shown(job.target)}. Nothing was written."
            )
    existing = [job.target for job in jobs if os.path.lexists(job.target)]
    if existing and not force:
        raise UsageError(
            f"{shown(existing[0])} exists{_others(len(existing))}; give --force to replace it. Nothing was written."
        )


def _others(count: int) -> str:
    return "" if count == 1 else f", and {count - 1} more"


def _picture(session: Session, job: Job, tile: int | None, overlap: int | None, force: bool) -> PictureRow:
    signature = session.signature
    picture = read_picture(job.source, scale=signature.scale)
    height, width = picture.rgb.shape[:2]
    tiles = count_tiles(height, width, signature, tile, overlap)
    started = time.perf_counter()
    pixels = run_tiled(session, picture.rgb, signature, tile, overlap)
    seconds = time.perf_counter() - started
    write_picture(job.target, picture.with_pixels(pixels), force=force)
    return PictureRow(
        os.fspath(job.source), os.fspath(job.target), pixels.shape[1], pixels.shape[0], tiles, seconds, "; ".join(picture.notes)
    )
