"""Measures how much re-estimated BatchNorm statistics improve a blend, and the effect of each choice in the estimation.

python -m benchmarks.features.calibration           into benchmarks/results/calibration.json and docs/images/calibration.png

Denoisers with BatchNorm: the demo family, whose members are far apart; the study's DnCNN, fine-tuned close to N20 with frozen
statistics; and N20 with a net trained from scratch. Statistics are estimated on noisy training photographs, and PSNR is measured on
held-out photographs. Everything runs in the in-place engine, alpha from 0 to 1 in steps of 0.05.
"""

from __future__ import annotations

import io
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.families import TRAINED_FAMILIES
from benchmarks.photographs import TEST_PHOTOGRAPHS, TRAIN_PHOTOGRAPHS, add_noise, middle
from benchmarks.result_file import describe_commit
from dni_deploy.api.calibrate import calibrate
from dni_deploy.api.export import export
from dni_deploy.blending.blend import blend_float64
from dni_deploy.blending.calibration_table import CalibrationTable, enumerate_calibration_points
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.writer import store_calibration
from dni_deploy.calibration.fit import CROPS_PER_BATCH
from dni_deploy.imaging.crops import read_crops
from dni_deploy.imaging.image_file import ImageFile, write_image
from dni_deploy.imaging.metrics.psnr import psnr
from dni_deploy.reports.plot import SERIES_STYLES
from dni_deploy.session.session import open_session
from dni_deploy.utils.atomic_write import write_bytes_atomically
from dni_deploy.utils.hardware import count_cores, cpu_name
from engines.calibrated_network import serialize_calibration
from engines.interface import EngineOptions
from engines.onnxruntime_cpu.statistics import BatchNormEstimator
from engines.registry import load_engine

ROOT = Path(__file__).resolve().parents[2]
RESULT_PATH = ROOT / "benchmarks" / "results" / "calibration.json"
PLOT_PATH = ROOT / "docs" / "images" / "calibration.png"
NOISE_LEVELS = (30, 40, 50)
IMAGE_SIDE_PX, ALPHA_STEPS = 128, 20
"""Of the middle of each held-out photograph; of alpha."""


def write_calibration_images(folder: Path, *, clean: bool = False) -> Path:
    """Writes the center of each training photograph, at noise 20, 30, 40, 50, 60 in turn, as a user would provide them."""
    folder.mkdir()
    for number, name in enumerate(TRAIN_PHOTOGRAPHS):
        pixels = middle(name)
        write_image(
            folder / f"{name}.png", ImageFile(pixels if clean else add_noise(pixels, 20 + 10 * (number % 5), seed=number))
        )
    return folder


def sweep_alpha(bundle: Bundle, level: int) -> list[float]:
    """Measures the mean PSNR over the held-out photographs at each alpha (coefficient of the first member) from 0 to 1."""
    cases = [(add_noise(middle(name, IMAGE_SIDE_PX), level), middle(name, IMAGE_SIDE_PX)) for name in TEST_PHOTOGRAPHS]
    mean_psnrs = []
    with open_session(bundle, engine="onnxruntime") as session:
        for step in range(ALPHA_STEPS + 1):
            session.alpha = step / ALPHA_STEPS
            mean_psnrs.append(statistics.fmean(psnr(session(frame), reference) for frame, reference in cases))
    return mean_psnrs


def measure_member(family: str, member: str, level: int, folder: Path) -> float:
    """Measures the mean PSNR of one member."""
    other = next(name for name in TRAINED_FAMILIES[family].members if name != member)
    bundle = export_pair(family, (member, other), folder / f"{family}-{member}-alone.dni")
    cases = [(add_noise(middle(name, IMAGE_SIDE_PX), level), middle(name, IMAGE_SIDE_PX)) for name in TEST_PHOTOGRAPHS]
    with open_session(bundle, engine="onnxruntime", alpha=1.0) as session:
        return statistics.fmean(psnr(session(frame), reference) for frame, reference in cases)


def export_pair(family: str, members: Sequence[str], path: Path) -> Bundle:
    row = TRAINED_FAMILIES[family]
    return export({name: row.members[name] for name in members}, path, arch=row.architecture, force=True)


def store_uncorrected(bundle: Bundle, images: Path, calibration_points: int = 11) -> Bundle:
    """Stores the raw estimates, as update_bn computes them; both ends keep the statistics of the members."""
    steps = calibration_points - 1
    members = [bundle.read_weights(member) for member in bundle.members]
    statistician = BatchNormEstimator(bundle.read_graph(), bundle.weight_names)
    inputs, _ = read_crops(sorted(images.iterdir()), bundle.signature)
    batches = [inputs[start : start + CROPS_PER_BATCH] for start in range(0, len(inputs), CROPS_PER_BATCH)]
    estimates = [
        statistician.estimate(blend_float64(members, point / steps), batches)
        for point in enumerate_calibration_points(2, steps)[1:-1]
    ]
    rows = {layer.mean: np.stack([each[layer.mean][0] for each in estimates]) for layer in statistician.layers}
    rows |= {layer.variance: np.stack([each[layer.mean][1] for each in estimates]) for layer in statistician.layers}
    return store_calibration(
        bundle, serialize_calibration(CalibrationTable.from_inner_statistics(members, steps, rows, {"pictures": []}))
    )


def summarize_curve(curve: Sequence[float]) -> dict[str, float]:
    """Reduces the curve to its best PSNR, the alpha of that, and the PSNR halfway."""
    top = int(np.argmax(curve))
    return {"best_db": curve[top], "best_alpha": top / ALPHA_STEPS, "halfway_db": curve[ALPHA_STEPS // 2]}


def compare_calibration(
    family: str, members: Sequence[str], images: Path, folder: Path, levels: Sequence[int] = NOISE_LEVELS
) -> dict[str, Any]:
    """Compares the plain and the calibrated curve at each level with the net fine-tuned for it."""
    click.echo(f"{family}: {' and '.join(members)}", err=True)
    bundle = export_pair(family, members, folder / f"{family}-{'-'.join(members)}.dni")
    plain = {level: sweep_alpha(bundle, level) for level in levels}
    report = calibrate(bundle, images, method="channels")
    bundle = Bundle.open(bundle.path)
    calibrated = {level: sweep_alpha(bundle, level) for level in levels}
    rows = []
    for level in levels:
        tuned = f"n{level}"
        rows.append(
            {
                "noise": level,
                "plain": summarize_curve(plain[level]),
                "calibrated": summarize_curve(calibrated[level]),
                "better_end_db": max(plain[level][0], plain[level][-1]),
                "fine_tuned_db": measure_member(family, tuned, level, folder)
                if tuned in TRAINED_FAMILIES[family].members
                else None,
                "ends_are_the_same_bits": [plain[level][0], plain[level][-1]] == [calibrated[level][0], calibrated[level][-1]],
                "curves": {"plain": plain[level], "calibrated": calibrated[level]},
            }
        )
    return {
        "family": TRAINED_FAMILIES[family].title,
        "members": list(members),
        "levels": rows,
        "moved": [{"layer": row.layer, "mean": row.mean, "variance": row.variance} for row in report.layers],
        "seconds": report.seconds,
    }


def compare_choices(images: Path, folder: Path, level: int = 40) -> list[dict[str, Any]]:
    """Compares numbers of calibration points, image sets, and the correction, on the demo family at one level."""
    bundle = export_pair("demo", ("n20", "n60"), folder / "choices.dni")
    rows: list[dict[str, Any]] = [{"what": "plain", **summarize_curve(sweep_alpha(bundle, level))}]
    clean = write_calibration_images(folder / "clean", clean=True)
    few = folder / "few"
    few.mkdir()
    for name in ("coffee.png", "gravel.png"):
        (few / name).write_bytes((images / name).read_bytes())
    for label, image_folder, calibration_points in (
        ("3 knots", images, 3),
        ("6 knots", images, 6),
        ("11 knots", images, 11),
        ("21 knots", images, 21),
        ("11 knots, two pictures", few, 11),
        ("11 knots, clean pictures", clean, 11),
    ):
        click.echo(label, err=True)
        calibrate(Bundle.open(bundle.path), image_folder, method="channels", calibration_points=calibration_points, force=True)
        rows.append({"what": label, **summarize_curve(sweep_alpha(Bundle.open(bundle.path), level))})
    for label, image_folder in (("not corrected", images), ("not corrected, clean pictures", clean)):
        click.echo(label, err=True)
        rows.append(
            {
                "what": f"11 knots, {label}",
                **summarize_curve(sweep_alpha(store_uncorrected(Bundle.open(bundle.path), image_folder), level)),
            }
        )
    return rows


def measure_change_cost(images: Path, folder: Path, rounds: int = 400) -> dict[str, float]:
    """Measures a change of alpha in the in-place engine without and with the statistics, interleaved; medians in microseconds."""
    plain = export_pair("demo", ("n20", "n60"), folder / "without.dni")
    calibrated = export_pair("demo", ("n20", "n60"), folder / "with.dni")
    calibrate(calibrated, images, method="channels")
    engines = [
        load_engine(Bundle.open(bundle.path), "onnxruntime", EngineOptions(threads=1, slots=1))
        for bundle in (plain, calibrated)
    ]
    samples: list[list[float]] = [[], []]
    for number in range(rounds):
        alpha = (number + 0.5) / rounds  # between calibration points, so that two of them are interpolated
        for index in (0, 1) if number % 2 else (1, 0):
            started = time.perf_counter()
            engines[index].refit(0, np.array([alpha, 1 - alpha]))
            samples[index].append(time.perf_counter() - started)
    for engine in engines:
        engine.close()
    medians = [statistics.median(each) for each in samples]
    return {"plain_us": medians[0] * 1e6, "calibrated_us": medians[1] * 1e6, "ratio": medians[1] / medians[0]}


LEVEL_STYLES = dict(zip((30, 40, 50), SERIES_STYLES, strict=False))
"""Color and marker of each noise level."""


def draw_plot(pairs: Sequence[dict[str, Any]]) -> bytes:
    """Plots PSNR along alpha, one panel per pair, as a PNG; the same numbers give the same bytes."""
    figure = Figure(figsize=(11.5, 4.2), layout="constrained")
    alphas = [step / ALPHA_STEPS for step in range(ALPHA_STEPS + 1)]
    for axes, row_of_pair in zip(figure.subplots(1, len(pairs), sharey=True), pairs, strict=True):
        for row in row_of_pair["levels"]:
            color, _ = LEVEL_STYLES[row["noise"]]
            axes.plot(alphas, row["curves"]["plain"], color=color, linestyle=":")
            axes.plot(alphas, row["curves"]["calibrated"], color=color)
            axes.annotate(
                f"noise {row['noise']}", (1, row["curves"]["calibrated"][-1]), textcoords="offset points", xytext=(5, 0),
                va="center", color=color, fontsize=8,
            )  # fmt: skip
            if row["fine_tuned_db"] is not None:
                axes.plot([-0.04], [row["fine_tuned_db"]], marker="<", color=color)
        first, second = row_of_pair["members"]
        axes.set(xlabel=f"alpha (share of {first}; the rest is {second})")
        axes.set_title(f"{row_of_pair['family']}: {first} and {second}", fontsize=9)
        axes.set(xlim=(-0.1, 1.25), xticks=(0, 0.2, 0.4, 0.6, 0.8, 1))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("PSNR (dB)")
    figure.legend(
        [
            Line2D([], [], color="black"),
            Line2D([], [], color="black", linestyle=":"),
            Line2D([], [], color="black", marker="<", linestyle="none"),
        ],
        ["calibrated", "plain blend", "network fine-tuned for this noise (sigma of 255)"],
        loc="outside lower center", ncols=3, fontsize=9, frameon=False,
    )  # fmt: skip
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


@click.command()
@click.option("--plot", "only_plot", is_flag=True, help="Measure nothing; draw the plot from the result that is there.")
def main(only_plot: bool) -> None:
    """Measures everything and writes the result and the plot."""
    if only_plot:
        write_bytes_atomically(PLOT_PATH, draw_plot(json.loads(RESULT_PATH.read_bytes())["pairs"]), force=True)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = write_calibration_images(folder / "noisy")
        pairs = [
            compare_calibration("demo", ("n20", "n60"), images, folder),
            compare_calibration("dncnn", ("n20", "n60"), images, folder),
            compare_calibration("dncnn", ("n20", "scratch"), images, folder, levels=(40,)),
        ]
        result = {"schema": 1, "pairs": pairs, "choices": compare_choices(images, folder)}
        result["change"] = measure_change_cost(images, folder)
    result |= {"commit": describe_commit(ROOT), "machine": f"{cpu_name()}, {count_cores()} cores", "side": IMAGE_SIDE_PX}
    write_bytes_atomically(
        RESULT_PATH, (json.dumps(result, indent=2, allow_nan=False, sort_keys=True) + "\n").encode(), force=True
    )
    write_bytes_atomically(PLOT_PATH, draw_plot(pairs), force=True)
    click.echo(f"wrote {RESULT_PATH.relative_to(ROOT)} and {PLOT_PATH.relative_to(ROOT)}", err=True)


if __name__ == "__main__":
    main()
