"""docs/calibration.md: its commands and its block run as printed, and its figures equal the benchmark's."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from dni_deploy.cli.main import main
from dni_deploy.imaging.image_file import ImageFile, write_image
from tests.support.shell_blocks import find_shell_blocks

pytest.importorskip("torch", reason="the bundle is exported by PyTorch (extra `export`)")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "calibration.md").read_text(encoding="utf-8")
FIGURES = json.loads((ROOT / "benchmarks" / "results" / "calibration.json").read_bytes())


def block(language: str) -> str:
    [match] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.S | re.M)
    return str(match)


def test_documented_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from dni_deploy.api.export import export
    from tests.support.pico_architectures import pico_state

    monkeypatch.chdir(tmp_path)
    first, second = (pico_state("dncnn_bn", seed) for seed in (0, 1))  # trained apart: their blend lacks something
    export({"n20": first, "n60": second}, tmp_path / "denoise.dni")
    (tmp_path / "noisy").mkdir()
    write_image(tmp_path / "noisy" / "one.png", ImageFile(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)))
    [commands] = find_shell_blocks("docs/calibration.md")
    assert len(commands.commands) == 3
    for line in commands.commands:  # the last one removes the calibration, so that the block below can add them
        program, *arguments = shlex.split(line)
        assert program == "dni-deploy"
        assert main([*arguments, "--quiet"]) == 0, line
    names: dict[str, object] = {}
    exec(compile(block("python"), "calibration.md", "exec"), names)
    names["session"].close()  # type: ignore[attr-defined]
    assert "output" in capsys.readouterr().out


def test_page_figures_equal_the_benchmark_results() -> None:
    rows = [row for pair in FIGURES["pairs"] for row in pair["levels"]]
    for row in rows:
        plain, calibrated = row["plain"], row["calibrated"]
        cells = f"{plain['best_db']:.2f} at {plain['best_alpha']:.2f} | "
        cells += f"{calibrated['best_db']:.2f} at {calibrated['best_alpha']:.2f} | "
        assert f"{cells}{calibrated['best_db'] - plain['best_db']:+.2f}" in PAGE
        assert row["ends_are_the_same_bits"]
    for choice in FIGURES["choices"]:
        assert (
            f"| {choice['what']} | {choice['best_db']:.2f} | {choice['best_alpha']:.2f} | {choice['halfway_db']:.2f} |" in PAGE
        )
    change = FIGURES["change"]
    assert f"takes {change['ratio']:.2f} times" in PAGE
    assert f"{change['calibrated_us']:.0f} instead of {change['plain_us']:.0f} microseconds" in PAGE


def test_figures_of_public_networks_and_of_the_cost_equal_the_results() -> None:
    from benchmarks.features import public_calibration

    result = json.loads(public_calibration.RESULT_PATH.read_bytes())
    assert len(result["pairs"]) == len(public_calibration.PAIRS)
    assert f"\n{public_calibration.format_table(result)}\n\n" in PAGE
    rows = json.loads((ROOT / "benchmarks" / "results" / "calibration_cost.json").read_bytes())["networks"]
    dncnn, compact, rrdb, transformer = rows
    text = " ".join(PAGE.split())
    output = sorted(row["output_ratio"] for row in rows)
    assert f"*output* {output[0]:.2f} to {output[2]:.2f}, and {compact['output_ratio']:.2f} for Compact" in text
    assert f"{dncnn['channels_ratio']:.2f} for DnCNN-17, {transformer['channels_ratio']:.2f} for TransformerNet" in text
    assert f"{rrdb['channels_ratio']:.2f} for RRDBNet-23" in text
    assert f"{compact['channels_ratio']:.2f} for Compact" in text


def test_links_and_paths_of_the_page_exist() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", PAGE) if not target.startswith("http")]
    assert targets
    assert not [target for target in targets if not (ROOT / "docs" / target).exists()]
    paths = re.findall(r"`((?:dni_deploy|engines|benchmarks|tests|docs)/[\w./]+)`", PAGE)
    assert paths
    assert not [path for path in paths if not (ROOT / path).exists()]
