"""Exports a small network of each architecture of spandrel and compares it with PyTorch.

    python -m benchmarks.features.spandrel_architectures                        into benchmarks/results/spandrel.json
    python -m benchmarks.features.spandrel_architectures SwinIR HAT             these rows of it alone

Each runs in a process of its own with a time limit: two members with random weights are exported, and the session's output at
three sizes and three alphas is compared with the descriptor's own function on the blended state dict. docs/architectures.md is
made from the result by docs/generate_architectures.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.compare import compare_times, make_timer
from benchmarks.features.spandrel_networks import NETWORKS, build_members
from benchmarks.result_file import describe_commit, write_result
from benchmarks.samples import ROOT
from dni_deploy.api.export import export
from dni_deploy.errors import DniError
from dni_deploy.session.session import open_session
from dni_deploy.signature import Signature
from dni_deploy.utils.compare_arrays import relative_error
from dni_deploy.utils.hardware import cpu_name

RESULT_PATH = ROOT / "benchmarks" / "results" / "spandrel.json"
ALPHAS = (0.0, 0.35, 1.0)
TIME_LIMIT_S = 600
TIMED_SIDE_PX = 96
TIMED_ROUNDS = 5


def measure_architecture(name: str, opset: int | None = None) -> dict[str, Any]:
    """Exports, compares and times one network of NETWORKS."""
    torch.set_num_threads(1)
    first, second = build_members(name)
    with tempfile.TemporaryDirectory() as folder:
        try:
            bundle = export({"first": first, "second": second}, Path(folder) / "network.dni", opset=opset)
        except DniError as error:
            return {"exports": False, "reason": str(error)}
        signature = bundle.signature
        row: dict[str, Any] = {
            "exports": True,
            "opset": bundle.manifest.opset,
            "multiple": signature.multiple,
            "minimum": signature.round_up_side(1),
            "scale": signature.scale,
        }
        with open_session(bundle, threads=1) as session:
            errors = []
            for alpha in ALPHAS:
                session.alpha = alpha
                reference = _make_reference(first, second, alpha)
                for height, width in choose_sizes(signature):
                    x = _make_input(signature, height, width)
                    errors.append(relative_error(session.infer(x), reference(x)))
            row["error"] = float(f"{max(errors):.1e}")
            side = signature.round_up_side(TIMED_SIDE_PX)
            x = _make_input(signature, side, side)
            modes = {
                "PyTorch": make_timer(lambda: reference(x)),
                "ours": make_timer(lambda: session.infer(x)),
            }
            times = compare_times(modes, TIMED_ROUNDS, over="PyTorch")["ways"]["ours"]
            row["frame time over PyTorch"] = times["over PyTorch"]
    return row


def choose_sizes(signature: Signature) -> list[tuple[int, int]]:
    """Chooses three sizes, in pixels, that a network takes: near its smallest, wider than high, and higher than wide."""
    sides = [(24, 24), (24, 43), (51, 37)]
    return [(signature.round_up_side(height), signature.round_up_side(width)) for height, width in sides]


def _make_input(signature: Signature, height: int, width: int) -> NDArray[np.float32]:
    return np.random.default_rng(height).random((1, signature.input_channels, height, width), np.float32)


def _make_reference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], alpha: float) -> Any:
    """The descriptor's own function with the blended weights, not clamped to 0..1 as the descriptor is.

    Sorts are stable ones: PyTorch's own order of equal values, on which ATD's output depends, differs between processors.
    """
    import spandrel

    from exporters.architectures.spandrel import StableSort

    blended = {
        key: alpha * value + (1 - alpha) * second[key] if value.is_floating_point() else value for key, value in first.items()
    }
    descriptor: Any = spandrel.ModelLoader(device="cpu").load_from_state_dict(blended).eval()

    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad(), StableSort():
            output: NDArray[np.float32] = descriptor._call_fn(descriptor.model, torch.from_numpy(x.copy())).numpy()
        return output

    return run


def measure_in_child(name: str, opset: int | None) -> dict[str, Any]:
    """Runs `measure_architecture` in a process of its own; what kills it or takes too long is the row's reason."""
    command = [sys.executable, "-m", "benchmarks.features.spandrel_architectures", "--child", name]
    command += [] if opset is None else ["--opset", str(opset)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        return {"exports": False, "reason": f"not done after {TIME_LIMIT_S} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [""]
        return {"exports": False, "reason": f"ended with code {done.returncode}: {lines[-1][:300]}"}
    row: dict[str, Any] = json.loads(done.stdout)
    return row


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(NETWORKS)))
@click.option(
    "-o", "--output", default=str(RESULT_PATH), show_default=True, help="The file to write; rows of others in it are kept."
)
@click.option("--opset", type=int, help="ONNX opset of the graphs.")
@click.option("--child", is_flag=True, hidden=True)
def main(names: tuple[str, ...], output: str, opset: int | None, child: bool) -> None:
    """Measures the named architectures, or all."""
    if child:
        print(json.dumps(measure_architecture(names[0], opset)))
        return
    facts = {"cpu": cpu_name(), "cores": os.cpu_count(), "alphas": ALPHAS}
    facts |= {name: __import__(name).__version__ for name in ("torch", "onnx", "onnxruntime", "spandrel")}
    commit = describe_commit(ROOT)
    for name in names or NETWORKS:
        row = {**measure_in_child(name, opset), "commit": commit}
        print(name, json.dumps(row), file=sys.stderr, flush=True)
        stored = json.loads(Path(output).read_text()) if Path(output).is_file() else {}
        rows = {**stored.get("rows", {}), name: row}
        write_result(output, {**facts, "rows": {key: rows[key] for key in NETWORKS if key in rows}})


if __name__ == "__main__":
    main()
