"""Times folders of images: a run beside the network alone, encoders, planning many names, and files in a large folder.

    python -m benchmarks.features.folders                                   into benchmarks/results/folders.json
    python -m benchmarks.features.folders --images 30 --names 10000 -o -    printed only

Ways are timed in turn, in blocks; a ratio is the median over the blocks. CPU seconds say what a busy machine hides: where
the network keeps all cores busy, a run takes at least the CPU seconds of both over those of the network.
"""

from __future__ import annotations

import io
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import PIL
from PIL import Image

from benchmarks.result_file import describe_run, write_result
from benchmarks.samples import ROOT, write_compact_bundle
from dni_deploy.api.run_images import ImageWorker, ImageWorkerFactory
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.imaging.frames import to_network
from dni_deploy.imaging.image_file import read_image
from dni_deploy.imaging.image_formats import IMAGE_FORMATS
from dni_deploy.imaging.image_paths import list_images
from dni_deploy.imaging.image_tasks import ImageFileOptions, plan_image_tasks
from dni_deploy.session.options import SessionOptions
from dni_deploy.session.session import open_session
from dni_deploy.utils import atomic_write
from dni_deploy.utils.atomic_write import write_bytes_atomically

RESULT_PATH = ROOT / "benchmarks" / "results" / "folders.json"
BLOCKS = 10
SIDE_PX = 256
ALPHA = 0.5
NETWORKS = {"Compact 24x8, x2": (24, 8, 1), "Compact 64x16, x2": (64, 16, 3)}
"""Width, depth, and one part of the images in how many: the first is small, so that files weigh much beside it; the second is
realesr-animevideov3 at its published size."""

FULL_FOLDER_NAMES = 100_000
FILES_PER_BLOCK = 100
ENCODINGS: dict[str, tuple[str, Mapping[str, object]]] = {
    "PNG level 1": ("PNG", {"compress_level": 1}),
    "PNG level 4 (ours)": ("PNG", {"compress_level": 4}),
    "PNG level 6 (zlib's default)": ("PNG", {"compress_level": 6}),
    "WebP lossless, effort 20 (ours)": ("WEBP", {"quality": 20}),
    "WebP lossless, effort 80 (Pillow's default)": ("WEBP", {"quality": 80}),
    "JPEG": ("JPEG", {}),
    "TIFF": ("TIFF", {}),
}


def time_blocks(ways: Mapping[str, Callable[[int], object]], over: str) -> dict[str, Any]:
    """Times the ways in turn, block by block, in wall and CPU seconds of the process; each gets the number of the block."""
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    load = os.getloadavg()[0]
    for block in range(BLOCKS):
        for name in names if block % 2 else reversed(names):
            started, cpu_started = time.perf_counter(), time.process_time()
            ways[name](block)
            wall[name].append(time.perf_counter() - started)
            cpu[name].append(time.process_time() - cpu_started)
    result: dict[str, Any] = {"blocks": BLOCKS, "load_before": round(load, 2), "ways": {}}
    for name in names:
        result["ways"][name] = {
            "seconds": round(sum(wall[name]), 3),
            "cpu_seconds": round(sum(cpu[name]), 3),
            f"wall over {over}": describe_ratios(wall[name], wall[over]),
            f"cpu over {over}": describe_ratios(cpu[name], cpu[over]),
        }
    return result


def describe_ratios(series: list[float], other: list[float]) -> list[float]:
    """Returns the median, smallest and largest ratio of two series of seconds."""
    ratios = [one / another for one, another in zip(series, other, strict=True)]
    return [round(value, 3) for value in (statistics.median(ratios), min(ratios), max(ratios))]


def write_crops(folder: Path, count: int) -> None:
    """Writes crops of the photograph as PNG, in one folder for each block."""
    photograph = read_image(ROOT / "dni_deploy" / "data" / "astronaut.png").rgb
    rng = np.random.default_rng(0)
    for number in range(count):
        top, left = (int(rng.integers(0, side - SIDE_PX + 1)) for side in photograph.shape[:2])
        path = folder / str(number % BLOCKS) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph[top : top + SIDE_PX, left : left + SIDE_PX]).save(path)


def compare_run(folder: Path, width: int, depth: int, part: int) -> dict[str, Any]:
    """Times what `run` does in an open session beside the network alone on the same images, already decoded."""
    bundle_path = folder / f"compact{width}.dni"
    write_compact_bundle(bundle_path, width, depth, 2)
    with open_session(bundle_path, SessionOptions(engine="onnxruntime"), alpha=ALPHA) as session:
        inputs = [
            [to_network(read_image(path).rgb, session.signature) for path in list_images(folder / "in" / str(block))[::part]]
            for block in range(BLOCKS)
        ]

        def run_network(block: int) -> None:
            for x in inputs[block]:
                session.infer(x)

        def make_run(file_format: str) -> Callable[[int], None]:
            options = ImageFileOptions(file_format=file_format)

            def run_block(block: int) -> None:
                output = folder / f"out-{width}-{file_format}-{block}"
                plan = plan_image_tasks(list_images(folder / "in" / str(block))[::part], output, options)
                factory = ImageWorkerFactory(bundle=Bundle.open(bundle_path), file_options=options)
                rows = list(ImageWorker(session, factory).run_units(plan.tasks))
                assert all(row.error is None for row in rows)

            return run_block

        run_network(0)  # the first inference allocates
        ways = {"network alone": run_network, **{f"run to {name}": make_run(name) for name in ("png", "webp", "jpg")}}
        return {"images": sum(map(len, inputs)), "size": f"{SIDE_PX}x{SIDE_PX}", **time_blocks(ways, "network alone")}


def compare_encoders() -> dict[str, Any]:
    """Times the encoders on one thread, on an enlarged photograph; sizes in bytes."""
    photograph = Image.fromarray(read_image(ROOT / "dni_deploy" / "data" / "astronaut.png").rgb)
    image = photograph.resize((1024, 1024), Image.Resampling.LANCZOS)
    defaults = {image_format.name: image_format.encoder_options for image_format in IMAGE_FORMATS}
    results = {}
    for name, (file_format, options) in ENCODINGS.items():
        seconds = []
        for _ in range(3):
            buffer = io.BytesIO()
            started = time.thread_time()
            image.save(buffer, file_format, **{**defaults[file_format], **options})
            seconds.append(time.thread_time() - started)
        results[name] = {"cpu_ms": round(min(seconds) * 1e3, 1), "bytes": len(buffer.getvalue())}
    return results


def measure_planning(folder: Path, count: int) -> dict[str, Any]:
    """Plans a run over a folder of many names; returns seconds and the memory that it took."""
    (folder / "many").mkdir()
    for number in range(count):
        os.close(os.open(folder / "many" / f"IMG_{number:07}.png", os.O_CREAT))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, cpu_started = time.perf_counter(), time.process_time()
    plan = plan_image_tasks(folder / "many", folder / "planned", ImageFileOptions(recursive=True))
    return {
        "names": len(plan.tasks),
        "seconds": round(time.perf_counter() - started, 2),
        "cpu_seconds": round(time.process_time() - cpu_started, 2),
        "memory_mb": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024),
    }


def compare_folders(folder: Path) -> dict[str, Any]:
    """Times files that are written into a folder of many names beside an empty one, and with a listing for every file."""
    for name in ("empty", "full"):
        (folder / name).mkdir()
    for number in range(FULL_FOLDER_NAMES):
        os.close(os.open(folder / "full" / f"IMG_{number:07}.png", os.O_CREAT))
    data = bytes(20_000)

    def publish(name: str, count: int, factor: int = atomic_write.LISTING_PAUSE_FACTOR) -> Callable[[int], None]:
        def write_files(block: int) -> None:
            pause, atomic_write.LISTING_PAUSE_FACTOR = atomic_write.LISTING_PAUSE_FACTOR, factor
            try:
                for number in range(count):
                    write_bytes_atomically(folder / name / f"{factor}-{block}-{count}-{number}.png", data)
            finally:
                atomic_write.LISTING_PAUSE_FACTOR = pause

        return write_files

    results: dict[str, Any] = {"names": FULL_FOLDER_NAMES, "files a block": FILES_PER_BLOCK}
    few = FILES_PER_BLOCK // 10
    ways = {"empty folder": publish("empty", FILES_PER_BLOCK), "full folder": publish("full", FILES_PER_BLOCK)}
    results["ours"] = time_blocks(ways, "empty folder")
    atomic_write._listing_by_folder.clear()
    ways = {"empty folder": publish("empty", few), "full folder": publish("full", few, -1)}
    results["listed for every file, a tenth of the files"] = time_blocks(ways, "empty folder")
    return results


@click.command()
@click.option("--images", type=click.IntRange(BLOCKS), default=300, show_default=True, help="Of each network.")
@click.option("--names", type=click.IntRange(1), default=1_000_000, show_default=True, help="To plan.")
@click.option("-o", "--output", type=click.Path(path_type=Path, allow_dash=True), default=RESULT_PATH)
def main(images: int, names: int, output: Path) -> None:
    """Times folders of images."""
    result: dict[str, Any] = {**describe_run(ROOT), "pillow": PIL.__version__}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_crops(folder / "in", images)
        result["encoders, 1024x1024"] = compare_encoders()
        result["files in a folder"] = compare_folders(folder)
        result["planning"] = measure_planning(folder, names)
        for network, (width, depth, part) in NETWORKS.items():
            result[network] = compare_run(folder, width, depth, part)
            print(network, result[network], file=sys.stderr)
    write_result(output, result)


if __name__ == "__main__":
    main()
