"""Times a change of alpha by groups of weights against a plain one, on this machine's CPU.

    python -m benchmarks.features.groups                   all four networks, into benchmarks/results/groups.json
    python -m benchmarks.features.groups dncnn -o -        printed only

A change is timed as a session makes it: compute the coefficients of every weight from the rules, blend, and refit. Alpha differs in
every round. As in a session, a small frame runs before each change. The modes run in rotating order, and the result is the median of
the per-round ratios.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.networks import NETWORKS, family
from benchmarks.result_file import describe_commit, write_result
from benchmarks.samples import ROOT
from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.api.export import export
from dni_deploy.blending.group_rules import AlphaRules
from dni_deploy.blending.weight_groups import WeightGroups
from dni_deploy.latency.timing import compute_median_ratio
from dni_deploy.session.session import RenderState
from dni_deploy.utils.hardware import count_cores, cpu_name
from engines.interface import EngineOptions
from engines.registry import load_engine
from engines.verification import make_verification_input

RESULT_PATH = ROOT / "benchmarks" / "results" / "groups.json"
INPUT_SIDE_PX = 32
RULES_BY_MODE = {"two groups": ["bias:*=0.2"], "a gradient over depth": ["*=0.1..0.9"]}
PER_TENSOR_MODE = "every weight its own"
EVERY_SECOND_MODE = "every second weight one member's"
MAX_CHANGE_RATIO = 1.3
"""Goal: the largest ratio of a change by groups to a plain change."""


def make_coefficient_functions(bundle: Any) -> dict[str, Callable[[Coefficients], NDArray[np.float64]]]:
    """Returns, for each mode, a function from the base coefficients to those of every weight."""
    groups = WeightGroups.from_graph(bundle.read_graph(), bundle.weight_names)
    rng = np.random.default_rng(0)
    alphas = rng.uniform(0.1, 0.9, len(groups.weights))
    rows = np.stack([alphas, 1 - alphas], axis=1)

    def apply_rules(rules: list[str] | None) -> Callable[[Coefficients], NDArray[np.float64]]:
        bound = None if rules is None else AlphaRules.parse(rules, groups, bundle.members)
        return lambda base: RenderState(base, bound).expand_coefficients()

    by_rules = {"plain": apply_rules(None), **{name: apply_rules(rules) for name, rules in RULES_BY_MODE.items()}}
    second = np.arange(len(alphas)) % 2 == 0
    whole = np.where((np.arange(len(alphas)) % 4 < 2)[:, None], [1.0, 0.0], [0.0, 1.0])
    return {
        **by_rules,
        PER_TENSOR_MODE: lambda base: 0.5 * rows + 0.5 * base.to_array(),
        EVERY_SECOND_MODE: lambda base: np.where(second[:, None], whole, base.to_array()),
    }


def measure(name: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Measures one network: medians in milliseconds and ratios to the plain change."""
    bundle = export(family(name), folder / f"{name}.dni", arch="auto")
    engine = load_engine(bundle, "onnxruntime", EngineOptions(slots=1))
    expanders = make_coefficient_functions(bundle)
    names = list(expanders)
    seconds: dict[str, list[float]] = {mode: [] for mode in names}
    x = make_verification_input(bundle.signature, INPUT_SIDE_PX)
    rng = np.random.default_rng(1)
    for number in range(rounds + 1):
        base = Coefficients.parse(float(rng.uniform(0.05, 0.95)), bundle.members)
        for mode in names[number % len(names) :] + names[: number % len(names)]:
            engine.refit(0, base.to_array())
            engine.infer(0, x)
            started = time.perf_counter()
            engine.refit(0, expanders[mode](base))
            engine.synchronize(0)
            if number:
                seconds[mode].append(time.perf_counter() - started)
    update_path = engine.update_path
    engine.close()
    return {
        "title": NETWORKS[name].title,
        "update_path": update_path,
        "weights": len(bundle.weight_names),
        "numbers": int(sum(np.prod(weight.shape) for weight in bundle.manifest.weights)),
        "rounds": rounds,
        "ms": {mode: round(1e3 * float(np.median(samples)), 4) for mode, samples in seconds.items()},
        "ratio": {
            mode: round(compute_median_ratio(samples, seconds["plain"]), 3)
            for mode, samples in seconds.items()
            if mode != "plain"
        },
    }


@click.command()
@click.argument("networks", nargs=-1, type=click.Choice(list(NETWORKS)))
@click.option("--rounds", type=click.IntRange(3), default=100, show_default=True)
@click.option("-o", "--output", default=str(RESULT_PATH), show_default=True, help="- prints only.")
def main(networks: tuple[str, ...], rounds: int, output: str) -> None:
    """Times the networks; without arguments all four."""
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in networks or NETWORKS:
            rows[name] = measure(name, Path(folder), rounds)
            ratios = ", ".join(f"{mode} {value:.2f}" for mode, value in rows[name]["ratio"].items())
            click.echo(f"{rows[name]['title']}: plain {rows[name]['ms']['plain']:.3f} ms; {ratios}", err=True)
    machine = {"cpu": cpu_name(), "cores": count_cores()}
    result = {"schema": 1, "commit": describe_commit(ROOT), "machine": machine, "goal": MAX_CHANGE_RATIO, "networks": rows}
    write_result(output, result)


if __name__ == "__main__":
    main()
