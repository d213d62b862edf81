"""tune: the best alpha by each metric, its cost, the files it writes, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from dni_deploy.api import tune as tune_module
from dni_deploy.api import tune_images
from dni_deploy.api.tune import tune
from dni_deploy.cli.output import CommandOutput
from dni_deploy.cli.tune import command
from dni_deploy.errors import MismatchError, UnavailableError, UsageError
from dni_deploy.imaging.metrics.psnr import psnr
from dni_deploy.signature import Signature
from dni_deploy.tuning import trials
from engines.frame_conversion import HostFrameEngine
from tests.dni_deploy.imaging.test_noise import noised
from tests.dni_deploy.tuning.test_sure import blur, middle
from tests.support.frame_session import Dimmer, opener
from tests.support.local_workers import LocalWorkers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """in.png, and clean.png at 0.63 of its brightness."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    Image.fromarray(np.rint(pixels * 0.63).astype(np.uint8)).save(tmp_path / "clean.png")
    return tmp_path


def use(monkeypatch: pytest.MonkeyPatch, engine: Any, *members: str, signature: Signature | None = None) -> Any:
    for module in (tune_module, tune_images):
        monkeypatch.setattr(module, "open_session", opener(engine, members, signature))
    return engine


def test_tune_finds_the_best_alpha_of_two_members(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dimmer = use(monkeypatch, Dimmer((1.0, 0.0)), "psnr", "gan")
    calls: list[tuple[int, int, str]] = []
    report = tune("my family.dni", folder / "in.png", reference=folder / "clean.png", progress=lambda *call: calls.append(call))
    best = report.evaluations[report.chosen_index]
    assert best.coefficients[0] == pytest.approx(0.63, abs=0.004)  # 0.005 is where Brent stops; 0.004 makes one level of 255
    assert report.chosen_index == report.best_indices[0]
    assert dimmer.refits == len(report.evaluations) + 1 <= 33  # the session's first alpha; each evaluation is one refit
    assert dimmer.closed == 1
    assert calls[-1][:2] == (len(report.evaluations), len(report.evaluations))
    assert "dB at psnr 0.6" in calls[-2][2]
    assert [report.evaluations[index].coefficients for index in report.single_member_indices] == [(1, 0), (0, 1)]
    assert report.compute_gain(0) == best.values[0] - report.evaluations[report.single_member_indices[0]].values[0] > 10
    assert report.format_next_command().startswith("dni-deploy run 'my family.dni' in.png -o out.png --alpha psnr=0.6")
    report_json = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert report_json["alpha"] == dict(zip(("psnr", "gan"), best.coefficients, strict=True))
    assert len(report_json["evaluations"]) == len(report.evaluations)
    assert report_json["best"][0]["metric"] == "psnr"


def test_reported_value_equals_a_session_at_that_alpha(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = use(monkeypatch, Dimmer((1.0, 0.0)), "a", "b")
    report = tune("x", folder / "in.png", reference=folder / "clean.png", evaluations=5)
    with Image.open(folder / "in.png") as source, Image.open(folder / "clean.png") as clean:
        frame, reference = np.array(source), np.array(clean)
    session = opener(engine, ("a", "b"))("x")
    for row in report.evaluations:
        session.alpha = row.coefficients
        assert row.values == (psnr(session(frame), reference),)


def test_several_images_are_averaged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One image is best at 0.63 and one at 0.35: the mean of the decibels decides, with as many evaluations."""
    with Image.open(folder / "in.png") as source:
        Image.fromarray(np.rint(np.array(source) * 0.35).astype(np.uint8)).save(folder / "dark.png")
    use(monkeypatch, Dimmer((1.0, 0.0)), "a", "b")
    single = [
        tune("x", folder / "in.png", reference=folder / name, evaluations=11).evaluations[:8]
        for name in ("clean.png", "dark.png")
    ]
    both = tune("x", [folder / "in.png"] * 2, reference=[folder / "clean.png", folder / "dark.png"], evaluations=11)
    assert both.image_count == 2
    for one, other, mean in zip(*single, both.evaluations, strict=False):
        assert mean.values[0] == pytest.approx((one.values[0] + other.values[0]) / 2, rel=1e-12)


def test_the_result_depends_on_no_order_and_no_unit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources, references = [], []
    for number in range(7):
        pixels = np.random.default_rng(number).integers(0, 256, (16 + number, 20, 3), dtype=np.uint8)
        for names, factor in ((sources, 1.0), (references, 0.3 + 0.07 * number)):
            names.append(folder / f"{number}-{factor:.2f}.png")
            Image.fromarray(np.rint(pixels * factor).astype(np.uint8)).save(names[-1])
    use(monkeypatch, Dimmer((1.0, 0.0)), "a", "b")
    wishes = {"metric": ["psnr", "ciede2000"], "crop": 16, "evaluations": 14}
    whole = tune("x", sources, reference=references, **wishes)  # type: ignore[arg-type]
    monkeypatch.setattr(tune_module, "open_workers", LocalWorkers)
    for images_per_unit, workers in ((1, 4), (3, 2), (100, 1)):
        monkeypatch.setattr(LocalWorkers, "worker_count", workers)
        monkeypatch.setattr(tune_images, "IMAGES_PER_UNIT", images_per_unit)
        again = tune("x", sources, reference=references, **wishes)  # type: ignore[arg-type]
        assert again.evaluations == whole.evaluations
        assert (again.front, again.chosen_index, again.notes) == (whole.front, whole.chosen_index, whole.notes)
    assert "and 4 more was given" in tune("x", sources, noise=10, evaluations=2).notes[-1]


def test_an_image_is_read_once_for_all_evaluations(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Dimmer((1.0, 0.0)), "a", "b")
    decoded: list[str] = []
    original = trials.read_image

    def read(path: str, **options: Any) -> Any:
        decoded.append(Path(path).name)
        return original(path, **options)

    monkeypatch.setattr(trials, "read_image", read)
    tune("x", folder / "in.png", reference=folder / "clean.png", evaluations=8)
    assert decoded == ["in.png", "clean.png"]


def test_tune_finds_the_best_point_of_three_members(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Dimmer((1.0, 0.5, 0.0)), "a", "b", "c")
    report = tune("x", folder / "in.png", reference=folder / "clean.png", plot=folder / "t.svg")
    best = report.evaluations[report.chosen_index].coefficients
    assert best[0] + 0.5 * best[1] == pytest.approx(0.63, abs=0.004)  # a whole line of the triangle is best
    assert len(report.evaluations) <= 48
    svg = (folder / "t.svg").read_bytes()
    assert svg.startswith(b"<?xml")
    again = tune("x", folder / "in.png", reference=folder / "clean.png", plot=folder / "again.svg")
    assert [row.coefficients for row in again.evaluations] == [row.coefficients for row in report.evaluations]
    assert (folder / "again.svg").read_bytes() == svg


def test_metrics_that_disagree_give_a_pareto_front(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "wishes.py").write_text(
        "def bright(picture, reference): return -abs(picture.mean() - 100)\n"
        "def dark(picture, reference): return abs(picture.mean() - 40)\n"
    )
    monkeypatch.chdir(folder)
    monkeypatch.delitem(__import__("sys").modules, "wishes", raising=False)
    use(monkeypatch, Dimmer((1.0, 0.0)), "a", "b")
    report = tune(
        "x.dni", "in.png", reference="clean.png", metric=["wishes:bright", "min:wishes:dark"], html="t.html", plot="t.png"
    )
    means = [127.0 * row.coefficients[0] for row in report.evaluations]  # approximately: the mean of the noise
    assert means[report.best_indices[0]] == pytest.approx(100, abs=3)
    assert means[report.best_indices[1]] == pytest.approx(40, abs=3)
    assert set(report.front) == {
        index for index, mean in enumerate(means) if means[report.best_indices[1]] <= mean <= means[report.best_indices[0]]
    }
    assert report.chosen_index in report.front
    assert means[report.chosen_index] == pytest.approx(70, abs=6)  # at the midpoint: both fall in proportion
    assert len(report.format_finding()) == 3
    page = (folder / "t.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert page.count("<img ") == 4
    assert 'src="http' not in page
    assert 'href="http' not in page
    assert report.format_next_command().replace("'", "&#x27;") in page or report.format_next_command() in page
    with Image.open(folder / "t.png") as plot:
        assert plot.width > 1500  # two metrics and the front


def test_the_line_between_two_best_points_is_on_the_front(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three members: one metric is best at a, the other at c, and both fall in proportion in between."""
    (folder / "ends.py").write_text(
        "def bright(picture, reference): return picture.mean()\ndef dark(picture, reference): return -picture.mean()\n"
    )
    monkeypatch.chdir(folder)
    monkeypatch.delitem(__import__("sys").modules, "ends", raising=False)
    use(monkeypatch, Dimmer((1.0, 0.4, 0.3)), "a", "b", "c")
    report = tune("x.dni", "in.png", reference="clean.png", metric=["ends:bright", "ends:dark"])
    assert [report.evaluations[index].coefficients for index in report.best_indices] == [(1, 0, 0), (0, 0, 1)]
    along_the_line = {row.coefficients for row in report.evaluations} & {(step / 8, 0.0, 1 - step / 8) for step in range(1, 8)}
    assert len(along_the_line) == 7
    assert len(report.front) >= 9
    assert len(report.evaluations) <= 64


class Blurs(HostFrameEngine):
    """Each member blurs with its own width, a blend with the blended width: a denoiser with one best blend."""

    name = "blurs"
    update_path = "a number"
    slots = 2
    scale = 1

    def __init__(self, *widths: float) -> None:
        super().__init__()
        self.widths, self.set = np.array(widths), [1.0, 1.0]

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        self.set[slot] = float(coefficients @ self.widths)

    def synchronize(self, slot: int) -> None:
        pass

    def infer(self, slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return blur(self.set[slot])(x)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("noise", ["auto", 20, "20"])
def test_without_a_reference_sure_finds_the_best_blend(
    folder: Path, monkeypatch: pytest.MonkeyPatch, noise: str | float
) -> None:
    noisy = noised(middle(), 20)
    Image.fromarray(noisy).save(folder / "noisy.png")
    Image.fromarray(middle()).save(folder / "truth.png")
    use(monkeypatch, Blurs(0.4, 4.0), "sharp", "soft")
    without_reference = tune("x", folder / "noisy.png", noise=noise)
    with_reference = tune("x", folder / "noisy.png", reference=folder / "truth.png")
    best, real = (
        without_reference.evaluations[without_reference.chosen_index].coefficients,
        with_reference.evaluations[with_reference.chosen_index].coefficients,
    )
    assert best[0] == pytest.approx(real[0], abs=0.05)  # 0.18 in blur width, of an objective that is flat near its minimum
    assert "estimated by SURE" in without_reference.notes[-1]
    assert ("was estimated" if noise == "auto" else "20.0 in noisy.png was given") in without_reference.notes[-1]
    assert without_reference.format_finding()[0].startswith("Best by estimated error: ")
    assert "dB)" in without_reference.format_finding()[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Neither is given"),
        ({"reference": "clean.png", "noise": "auto"}, "Both are given"),
        ({"noise": "loud"}, "'auto' or a sigma above 0 and up to 255; got loud"),
        ({"noise": float("nan")}, "got nan"),
        ({"noise": "auto", "metric": ["ssim"]}, "leave --metric out"),
        ({"reference": "clean.png", "metric": []}, "1 to 4 metrics, got 0"),
        ({"reference": "clean.png", "metric": "sharpness"}, "There is no metric 'sharpness'"),
        ({"reference": "clean.png", "evaluations": 1}, "2 to 10000 evaluations, got 1"),
        ({"reference": "clean.png", "plot": "t.jpg"}, "A plot is written as"),
        ({"reference": "clean.png", "html": "t.txt"}, "A page is written as"),
        ({"reference": "clean.png", "html": "in.png.html"}, "exists; give --force"),
        ({"reference": "clean.png", "plot": "nowhere/t.png"}, "does not exist"),
        ({"reference": ["clean.png", "clean.png"]}, "There are 1 images and 2 references"),
    ],
)
def test_tune_refuses_invalid_arguments(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(folder)
    (folder / "in.png.html").write_text("mine")
    use(monkeypatch, Dimmer((1.0, 0.0)), "a", "b")
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(UsageError, match=message):
        tune("x", "in.png", **options)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert (folder / "in.png.html").read_text() == "mine"


def test_a_metric_that_fails_writes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "broken_metric.py").write_text("def f(picture, reference): return float('nan')\n")
    dimmer = use(monkeypatch, Dimmer((1.0, 0.0)), "a", "b")
    with pytest.raises(UsageError, match="gave NaN"):
        tune("x", "in.png", reference="clean.png", metric="broken_metric:f", html="t.html")
    assert not (folder / "t.html").exists()
    assert dimmer.closed == 1


def test_without_a_reference_only_denoisers_can_be_tuned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Dimmer((1.0, 0.0), scale=2), "a", "b", signature=Signature(radius=0, scale=2))
    with pytest.raises(MismatchError, match="enlarges by 2"):
        tune("x", folder / "in.png", noise=20)


def test_the_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Dimmer((1.0, 0.5, 0.0)), "a", "b", "c")
    arguments = ["x.dni", str(folder / "in.png"), "--reference", str(folder / "clean.png"), "--evaluations", "20"]
    text_run = CliRunner().invoke(command, arguments, obj=CommandOutput())
    assert text_run.exit_code == 0, text_run.output
    lines = text_run.stdout.splitlines()
    assert lines[0].split() == ["a", "b", "c", "psnr"]
    assert sum("alone" in line for line in lines) >= 2
    assert lines[-1].startswith("dni-deploy run x.dni in.png -o out.png --alpha ")
    json_run = CliRunner().invoke(command, [*arguments, "--json"], obj=CommandOutput())
    body = json.loads(json_run.stdout)
    assert body["command"] == "tune"
    assert math.fsum(body["alpha"].values()) == pytest.approx(1, abs=1e-12)
    assert len(body["evaluations"]) <= 20


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from dni_deploy.utils.optional_packages import import_optional

    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    monkeypatch.delitem(sys.modules, "dni_deploy.tuning.search", raising=False)
    with pytest.raises(UnavailableError, match=r"pip install .*\[tune\]"):
        import_optional("dni_deploy.tuning.search")
