"""Show the paper's claims again, through exported engines.

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

from benchmarks.commit import described
from benchmarks.paper_reproduction.bench import open_bench
from benchmarks.paper_reproduction.families import ROOT
from benchmarks.paper_reproduction.figures import FIGURES
from benchmarks.paper_reproduction.page import page
from benchmarks.paper_reproduction.section import Section
from dni_deploy.utils.atomic_write import publish_bytes
from dni_deploy.utils.hardware import cores, cpu

RESULTS = ROOT / "benchmarks" / "results" / "paper.json"
PAGE = ROOT / "docs" / "paper.md"
IMAGES = ROOT / "docs" / "images" / "paper"


@click.command(help=__doc__)
@click.option("--only", multiple=True, type=click.Choice(FIGURES), help="Run these figures; may be given more than once.")
@click.option("--page", "only_page", is_flag=True, help="Run nothing; write the page from the results that are there.")
def main(only: tuple[str, ...], only_page: bool) -> None:
    """Run the figures and write what they found."""
    result: dict[str, Any] = json.loads(RESULTS.read_bytes()) if RESULTS.exists() else {"schema": 1, "sections": {}}
    if not only_page:
        result["machine"] = _machine()
        commit = described(ROOT)  # before anything is written: the figures themselves are no difference
        with open_bench() as bench:
            for name in only or FIGURES:
                click.echo(f"{name} ...", err=True)
                started = time.perf_counter()
                section: Section = import_module(f"benchmarks.paper_reproduction.figures.{name}").figure(bench)
                seconds = time.perf_counter() - started
                result["sections"][name] = _kept(section, seconds, commit)
                _pictures(section, IMAGES)
                click.echo(
                    f"{name}: {seconds:.1f} s, {sum(g.holds for g in section.goals)}/{len(section.goals)} goals", err=True
                )
        result["sections"] = {name: result["sections"][name] for name in FIGURES if name in result["sections"]}
        publish_bytes(RESULTS, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode(), force=True)
    publish_bytes(PAGE, page(result).encode(), force=True)
    click.echo(f"wrote {PAGE.relative_to(ROOT)}", err=True)


def _kept(section: Section, seconds: float, commit: str) -> dict[str, Any]:
    facts = {
        "seconds": round(seconds, 1),
        "commit": commit,
        "date": datetime.now(timezone.utc).date().isoformat(),
    }
    kept: dict[str, Any] = _rounded(section.to_json() | facts)
    return kept


def _rounded(value: Any) -> Any:
    """Floats to 5 significant digits, so that the file's changes are changes; None for what JSON cannot say."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value


def _pictures(section: Section, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for picture in section.pictures:
        publish_bytes(folder / f"{picture.name}.png", picture.png, force=True)


def _machine() -> dict[str, Any]:
    name, flags = cpu()
    return {
        "cpu": name,
        "cores": cores(),
        "instruction sets": " ".join(flags),
        "os": platform.system(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("onnxruntime", "numpy", "torch")},
    }


if __name__ == "__main__":
    main()
