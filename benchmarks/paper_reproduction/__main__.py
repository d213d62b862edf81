"""Reproduces the figures of the paper with exported engines.

python -m benchmarks.paper_reproduction   every figure, into docs/images/paper, benchmarks/results/paper.json, docs/paper.md
python -m benchmarks.paper_reproduction --only filters     one figure again; the others stay as they were
python -m benchmarks.paper_reproduction --page             docs/paper.md again from benchmarks/results/paper.json
"""

from __future__ import annotations

import json
import math
import platform
import time
from datetime import datetime, timezone
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from benchmarks.families import ROOT
from benchmarks.paper_reproduction.bench import open_bench
from benchmarks.paper_reproduction.figures import FIGURE_MODULES
from benchmarks.paper_reproduction.page import page
from benchmarks.paper_reproduction.section import Section
from benchmarks.result_file import describe_commit
from dni_deploy.utils.atomic_write import write_bytes_atomically
from dni_deploy.utils.hardware import count_cores, cpu_name, layout_instruction_sets

RESULT_PATH = ROOT / "benchmarks" / "results" / "paper.json"
PAGE_PATH = ROOT / "docs" / "paper.md"
IMAGES_FOLDER = ROOT / "docs" / "images" / "paper"


@click.command(help=__doc__)
@click.option(
    "--only", multiple=True, type=click.Choice(FIGURE_MODULES), help="Run these figures; may be given more than once."
)
@click.option("--page", "only_page", is_flag=True, help="Run nothing; write the page from the results that are there.")
def main(only: tuple[str, ...], only_page: bool) -> None:
    """Runs the figures and writes their results."""
    result: dict[str, Any] = json.loads(RESULT_PATH.read_bytes()) if RESULT_PATH.exists() else {"schema": 1, "sections": {}}
    if not only_page:
        result["machine"] = _describe_machine()
        commit = describe_commit(ROOT)  # before anything is written: the figures themselves are no difference
        with open_bench() as bench:
            for name in only or FIGURE_MODULES:
                click.echo(f"{name} ...", err=True)
                started = time.perf_counter()
                section: Section = import_module(f"benchmarks.paper_reproduction.figures.{name}").figure(bench)
                seconds = time.perf_counter() - started
                result["sections"][name] = _make_entry(section, seconds, commit)
                _write_images(section, IMAGES_FOLDER)
                click.echo(
                    f"{name}: {seconds:.1f} s, {sum(g.holds for g in section.goals)}/{len(section.goals)} goals", err=True
                )
        result["sections"] = {name: result["sections"][name] for name in FIGURE_MODULES if name in result["sections"]}
        write_bytes_atomically(RESULT_PATH, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode(), force=True)
    write_bytes_atomically(PAGE_PATH, page(result).encode(), force=True)
    click.echo(f"wrote {PAGE_PATH.relative_to(ROOT)}", err=True)


def _make_entry(section: Section, seconds: float, commit: str) -> dict[str, Any]:
    facts = {
        "seconds": round(seconds, 1),
        "commit": commit,
        "date": datetime.now(timezone.utc).date().isoformat(),
    }
    entry: dict[str, Any] = _round_floats(section.to_json() | facts)
    return entry


def _round_floats(value: Any) -> Any:
    """Rounds floats to 5 significant digits to keep diffs of the file small; None for what JSON cannot represent."""
    if isinstance(value, dict):
        return {key: _round_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_round_floats(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value


def _write_images(section: Section, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for picture in section.pictures:
        write_bytes_atomically(folder / f"{picture.name}.png", picture.png, force=True)


def _describe_machine() -> dict[str, Any]:
    name, flags = cpu_name(), layout_instruction_sets()
    return {
        "cpu": name,
        "cores": count_cores(),
        "instruction sets": " ".join(flags),
        "os": platform.system(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("onnxruntime", "numpy", "torch")},
    }


if __name__ == "__main__":
    main()
