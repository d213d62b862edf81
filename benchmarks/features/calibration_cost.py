"""Times a change of alpha with a calibration beside one without, on the CPU, for the four networks of the benchmarks.

python -m benchmarks.features.calibration_cost           into benchmarks/results/calibration_cost.json

The corrections are made up, because their cost does not depend on them: of the output alone, and of all channels. One thread,
interleaved, medians.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.networks import NETWORKS, family
from benchmarks.result_file import describe_commit, write_result
from dni_deploy.api.export import export
from dni_deploy.blending.calibration_table import CalibrationTable
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.writer import store_calibration
from dni_deploy.utils.hardware import count_cores, cpu_name
from engines.calibrated_network import CalibratedNetwork, list_statistics_names, serialize_calibration
from engines.interface import Engine, EngineOptions
from engines.lowering.calibration_nodes import find_convolutions, find_output_layer, parameter_names
from engines.registry import load_engine

ROOT = Path(__file__).resolve().parents[2]
RESULT_PATH = ROOT / "benchmarks" / "results" / "calibration_cost.json"
STEPS = 10
ROUNDS = {"rrdb": 60}
DEFAULT_ROUNDS = 300


def store_corrections(bundle: Bundle, method: str) -> Bundle:
    """Stores a calibration that changes every number a little: of the output, or of all channels or BatchNorm statistics."""
    graph, names = bundle.read_graph(), bundle.weight_names
    statistics_names = list_statistics_names(bundle, graph)
    layers = {}
    if method == "output":
        layer = find_output_layer(graph, names, bundle.signature.output_channels).layer
        layers = {layer.value: layer}
    elif not statistics_names:
        layers = find_convolutions(graph, names)
    members = CalibratedNetwork(bundle, graph, names, tuple(layers.values())).read_members()
    corrected = [name for value in layers for name in parameter_names(value)[:2]]
    if method == "channels":
        corrected += statistics_names
    middle = {name: (members[0][name].astype(np.float64) + members[1][name]) / 2 for name in corrected}
    rows = {name: np.tile(1.01 * values, (STEPS - 1, 1)) for name, values in middle.items()}
    return store_calibration(bundle, serialize_calibration(CalibrationTable.from_inner_statistics(members, STEPS, rows, {})))


def time_changes(engines: dict[str, Engine], rounds: int) -> dict[str, float]:
    """Times changes of alpha, the engines in turn; medians in microseconds."""
    samples: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(rounds):
        alpha = (number + 0.5) / rounds  # between calibration points, so that two of them are interpolated
        for name in sorted(engines, reverse=bool(number % 2)):
            started = time.perf_counter()
            engines[name].refit(0, np.array([alpha, 1 - alpha]))
            samples[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) * 1e6 for name, values in samples.items()}


def measure_network(name: str, folder: Path) -> dict[str, Any]:
    """Measures one network."""
    engines = {}
    for method in ("plain", "output", "channels"):
        bundle = export(family(name), folder / f"{name}-{method}.dni")
        bundle = bundle if method == "plain" else store_corrections(bundle, method)
        engines[method] = load_engine(bundle, "onnxruntime", EngineOptions(threads=1, slots=1))
    medians = time_changes(engines, ROUNDS.get(name, DEFAULT_ROUNDS))
    for engine in engines.values():
        engine.close()
    ratios = {f"{method}_ratio": medians[method] / medians["plain"] for method in ("output", "channels")}
    return {"network": NETWORKS[name].title, **{f"{method}_us": value for method, value in medians.items()}, **ratios}


@click.command(help=__doc__)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=RESULT_PATH)
def main(output: Path) -> None:
    """Measures all networks and writes the result."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in NETWORKS:
            rows.append(measure_network(name, Path(folder)))
            click.echo(rows[-1], err=True)
    machine = {"cpu": cpu_name(), "cores": count_cores(), "threads": 1}
    write_result(output, {"schema": 1, "commit": describe_commit(ROOT), "machine": machine, "networks": rows})


if __name__ == "__main__":
    main()
