"""Times images with an alpha for each pixel against images with one alpha, on the CPU engine.

    python -m benchmarks.features.alpha_map                     into benchmarks/results/alpha_map.json
    python -m benchmarks.features.alpha_map --rounds 3 -o -     printed only

Every round runs each mode once, in rotating order. The result is the median of the per-round ratios to the plain frame. Neither
the plain frame nor the maps use tiles, so that tiling does not affect the ratio.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from benchmarks.networks import NETWORKS, family
from benchmarks.result_file import describe_commit, write_result
from benchmarks.samples import ROOT
from dni_deploy.api.export import export
from dni_deploy.imaging.image_file import read_image
from dni_deploy.session.session import Session, open_session
from dni_deploy.spatial.alpha_map import AlphaMap
from dni_deploy.spatial.plan import plan_map
from dni_deploy.spatial.render import render_map
from dni_deploy.utils.hardware import count_cores, cpu_name
from dni_deploy.utils.onnxruntime_library import ort

RESULT_PATH = ROOT / "benchmarks" / "results" / "alpha_map.json"
INPUT_SIDES_PX = {"dncnn": (512, 720), "compact": (128, 180), "rrdb": (128, 180)}
"""Input sides: outputs of 512 and 720 pixels, four times the input of the last two."""


def masks(side: int) -> dict[str, NDArray[np.uint8]]:
    """Makes the masks: half the image, a disk of a fifth of it, a disk with a soft edge, and a ramp from left to right."""
    half = np.zeros((side, side), np.uint8)
    half[:, : side // 2] = 255
    distance = np.hypot(*(np.mgrid[:side, :side] - side / 2))
    disc = np.where(distance < side / 4, 255, 0)
    soft = np.clip((side / 4 - distance) / (side / 16) * 128 + 128, 0, 255)
    ramp = np.broadcast_to(np.linspace(0, 255, side), (side, side))
    return {"half": half, "disc": disc.astype(np.uint8), "soft disc": soft.astype(np.uint8), "ramp": ramp.astype(np.uint8)}


def compare_maps(session: Session, frame: NDArray[np.uint8], rounds: int, only_half: bool) -> dict[str, Any]:
    """Measures a plain frame in ms and, for each mask, the levels, the planned work and the ratio (median, smallest, largest).

    only_half: skip the other masks, which are slow on a large network.
    """
    maps = {name: AlphaMap.of(mask) for name, mask in masks(frame.shape[0]).items() if name == "half" or not only_half}
    modes: dict[str, Callable[[], object]] = {"plain": partial(session, frame)}
    modes.update({name: partial(render_map, session, frame, alpha_map, tile=0) for name, alpha_map in maps.items()})
    times: dict[str, list[float]] = {name: [] for name in modes}
    names = list(modes)
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            started = time.perf_counter()
            modes[name]()
            if number:
                times[name].append(time.perf_counter() - started)
    rows: dict[str, Any] = {"plain ms": round(1000 * float(np.median(times["plain"])), 1)}
    for name, alpha_map in maps.items():
        plan = plan_map(alpha_map, frame.shape[0], frame.shape[1], session.signature, tile=0)
        ratios = np.divide(times[name], times["plain"])
        rows[name] = {
            "levels": len(plan.levels),
            "work": round(plan.relative_cost, 3),
            "over plain": [round(float(value), 3) for value in (np.median(ratios), ratios.min(), ratios.max())],
        }
    return rows


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--threads", type=click.IntRange(0), default=1, show_default=True, help="Of the engine; 0: one per core.")
@click.option("--side", type=click.IntRange(16), help="One side for all, for a trial.")
@click.option("-o", "--output", type=click.Path(path_type=Path, allow_dash=True), default=RESULT_PATH)
def main(rounds: int, threads: int, side: int | None, output: Path) -> None:
    """Times alpha maps."""
    photograph = read_image(ROOT / "dni_deploy" / "data" / "astronaut.png").rgb
    large = np.tile(photograph, (3, 3, 1))
    load, commit = os.getloadavg()[0], describe_commit(ROOT)  # read before the run: the working tree may change during it
    rows = {}
    for name, sides in INPUT_SIDES_PX.items():
        with tempfile.TemporaryDirectory() as folder:
            files = {}
            for member, state in family(name).items():
                files[member] = Path(folder) / f"{member}.safetensors"
                save_file({key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in state.items()}, files[member])
            with open_session(export(files, Path(folder) / "x.dni"), engine="onnxruntime", threads=threads) as session:
                for input_side in sides if side is None else (side,):
                    frame = np.ascontiguousarray(large[:input_side, :input_side])
                    key = (
                        f"{NETWORKS[name].title}, {input_side * session.signature.scale}x{input_side * session.signature.scale}"
                    )
                    print(key, file=sys.stderr)
                    rows[key] = compare_maps(session, frame, rounds, name == "rrdb" or input_side != sides[0])
    result = {
        "schema": 1,
        "commit": commit,
        "cpu": cpu_name(),
        "cores": count_cores(),
        "onnxruntime": ort.__version__,
        "threads": threads,
        "rounds": rounds,
        "load_before": round(load, 2),
        "ratio": "median, least and largest of a frame with the map over a plain frame, whole frames both",
        "rows": rows,
    }
    write_result(output, result)


if __name__ == "__main__":
    main()
