"""Times the four networks on the CPU, this project against the alternatives, and writes the results.

python -m benchmarks                       all four, into benchmarks/results/cpu.json, docs/benchmarks.md and its plot, after each
python -m benchmarks dncnn --repeats 5     one, printed only
python -m benchmarks --page                the page and the plot again, from benchmarks/results/

For the rows of OpenVINO: pip install openvino. For GPUs see benchmarks.gpu.__main__.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks.networks import NETWORKS, family
from benchmarks.page import write_page
from benchmarks.result_file import describe_commit, write_result
from dni_deploy.api.bench import bench
from dni_deploy.api.export import export

ROOT = Path(__file__).resolve().parent.parent
CPU_RESULT_PATH = ROOT / "benchmarks" / "results" / "cpu.json"
GPU_RESULT_PATH = CPU_RESULT_PATH.with_name("gpu.json")


@click.command()
@click.argument("networks", nargs=-1, type=click.Choice(list(NETWORKS)))
@click.option("--repeats", type=click.IntRange(3), default=20, show_default=True, help="Rounds per network.")
@click.option("--memory/--no-memory", default=True, help="Measure resident memory, each row in a process of its own.")
@click.option("--page", "only_page", is_flag=True, help="Time nothing; write the page from the results that are there.")
def main(networks: tuple[str, ...], repeats: int, memory: bool, only_page: bool) -> None:
    """Time the networks; without arguments all four, and keep the result of each when it is measured."""
    if only_page:
        _page(json.loads(CPU_RESULT_PATH.read_bytes()))
        return
    commit = describe_commit(ROOT)
    reports: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in networks or NETWORKS:
            network = NETWORKS[name]
            bundle = Path(folder) / f"{name}.dni"
            click.echo(f"{network.title}: exporting", err=True)
            export(family(name), bundle, arch="auto")
            click.echo(f"{network.title}: timing {repeats} rounds at {'x'.join(map(str, network.shape))}", err=True)
            report = bench(bundle, shape=network.shape, repeats=repeats, measure_memory=memory, progress=_print_progress)
            reports[name] = {"title": network.title, **report.to_json()}
            for row in report.rows:
                click.echo(f"  {row.name:<19} steady {row.steady_ms:8.1f} ms   change {row.change_ms or 0:8.2f} ms")
            for ratio, value in report.ratios.items():
                click.echo(f"  {value:9.3f}  {ratio}")
            for mode, reason in report.skipped.items():
                click.echo(f"  not run: {mode}, {reason}", err=True)
            if not networks:
                _save({"schema": 1, "commit": commit, "networks": reports})


def _print_progress(done: int, total: int, what: str) -> None:
    click.echo(f"  {what} ({done + 1} of {total})", err=True)


def _save(result: dict[str, Any]) -> None:
    CPU_RESULT_PATH.parent.mkdir(exist_ok=True)
    write_result(CPU_RESULT_PATH, result)
    click.echo(f"wrote {CPU_RESULT_PATH}, {len(result['networks'])} of {len(NETWORKS)} networks", err=True)
    _page(result)


def _page(result: dict[str, Any]) -> None:
    write_page(result, json.loads(GPU_RESULT_PATH.read_bytes()) if GPU_RESULT_PATH.exists() else None, ROOT / "docs")
    click.echo("wrote docs/benchmarks.md and docs/images/benchmarks.svg", err=True)


if __name__ == "__main__":
    main()
