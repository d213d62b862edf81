"""sweep over many images: each one's numbers and their mean, the same whoever measures them and in whichever order."""

from __future__ import annotations

import csv
import json
import math
import os
import pickle
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dni_deploy.api import sweep_images as module
from dni_deploy.api import tune as tune_module
from dni_deploy.api.sweep import sweep
from dni_deploy.api.sweep_images import SweepSettings, SweepWorkerFactory, make_units, sweep_images
from dni_deploy.api.tune import tune
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.cli.main import main
from dni_deploy.errors import ImageFileError, InputError, MismatchError, PartialResultError, UsageError
from dni_deploy.imaging import image_file
from dni_deploy.imaging.image_pairs import ImagePair
from dni_deploy.jobs.ray_options import RayOptions
from dni_deploy.jobs.unit import UnitError, UnitRow
from dni_deploy.reports.sweep import SweepReport
from dni_deploy.session.options import SessionOptions
from tests.support import pipe_bundle
from tests.support.local_workers import LocalWorkers

COUNT = 10
SETTINGS = SweepSettings(steps=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """x.dni, and ten images of several sizes in in/ and in/more/, each with a darker one of its name in clean/."""
    folder = tmp_path_factory.mktemp("sweep")
    pipe_bundle.write(folder / "x.dni")
    random = np.random.default_rng(0)
    for number in range(COUNT):
        name = f"more/{number}.png" if number % 3 == 2 else f"{number}.png"
        pixels = random.integers(0, 256, (8 + number, 30 - number, 3), dtype=np.uint8)
        for part, image in (("in", pixels), ("clean", np.rint(pixels * (0.52 + 0.04 * number)).astype(np.uint8))):
            path = folder / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return folder


def measure(folder: Path, settings: SweepSettings = SETTINGS, **options: Any) -> SweepReport:
    return sweep_images(folder / "x.dni", folder / "in", folder / "clean", settings=settings, recursive=True, **options)


def numbers(report: SweepReport) -> list[Any]:
    """What has to be the same to the last digit: everything but times."""
    points = [(point.coefficients, point.psnr, point.pixel_blend_psnr, point.values) for point in report.points]
    images = [replace(image, frame_seconds=()) for image in report.images]
    return [points, images, report.best_index, report.format_table()]


@pytest.fixture(scope="module")
def expected(folder: Path) -> SweepReport:
    return measure(folder)


def test_each_image_is_as_a_sweep_of_it_alone(folder: Path, expected: SweepReport, tmp_path: Path) -> None:
    assert [image.name for image in expected.images] == [f"{number}.png" for number in (0, 1, 3, 4, 6, 7, 9)] + [
        f"more/{number}.png" for number in (2, 5, 8)
    ]
    for image in expected.images[::4]:
        alone = sweep(
            folder / "x.dni", folder / "in" / image.name, tmp_path / "s.png", steps=5, reference=folder / "clean" / image.name,
            force=True,
        )  # fmt: skip
        assert image.psnrs == tuple(point.psnr for point in alone.points)
        assert image.pixel_blend_psnrs == tuple(point.pixel_blend_psnr for point in alone.points)


def test_the_points_are_means_over_the_images(expected: SweepReport) -> None:
    for index, point in enumerate(expected.points):
        assert point.psnr == statistics.fmean(image.psnrs[index] for image in expected.images if image.psnrs)
        assert point.frame_seconds > 0
    assert expected.best_index == max(range(5), key=lambda index: expected.points[index].psnr or 0)
    assert "(mean of 10 images)" in expected.format_finding()


@pytest.mark.parametrize(("images_per_unit", "workers", "held"), [(1, 4, 10**9), (3, 2, 1), (4, 1, 1), (100, 2, 1500)])
def test_the_numbers_depend_on_no_order_and_no_unit(
    folder: Path, expected: SweepReport, monkeypatch: pytest.MonkeyPatch, images_per_unit: int, workers: int, held: int
) -> None:
    monkeypatch.setattr(module, "open_workers", LocalWorkers)
    monkeypatch.setattr(LocalWorkers, "worker_count", workers)
    monkeypatch.setattr(module, "IMAGES_PER_UNIT", images_per_unit)
    monkeypatch.setattr(module, "MAX_HELD_PIXELS", held)
    assert numbers(measure(folder)) == numbers(expected)


class WorkersElsewhere(LocalWorkers):
    """Workers whose current folder is another one."""

    def run_units(self, units: Any, progress: Any = None) -> Any:
        assert "pillow" in self.options["versions"]  # another one might decode to other numbers
        here = os.getcwd()
        os.chdir("/")
        try:
            yield from list(super().run_units(units, progress))
        finally:
            os.chdir(here)


def test_workers_elsewhere_find_the_images(folder: Path, expected: SweepReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    options = RayOptions(ray="local", cpus=2)
    here = tune("x.dni", "in", reference="clean", evaluations=2)
    for one in (module, tune_module):
        monkeypatch.setattr(one, "require_ray", lambda: None)
        monkeypatch.setattr(one, "open_workers", WorkersElsewhere)
    report = sweep_images("x.dni", "in", "clean", settings=SETTINGS, recursive=True, ray_options=options)
    assert numbers(report) == numbers(expected)
    assert tune("x.dni", "in", reference="clean", evaluations=2, ray_options=options).evaluations == here.evaluations
    with pytest.raises(UsageError, match="each worker gets its GPU from Ray"):
        tune("x.dni", "in", reference="clean", options=SessionOptions(device=1), ray_options=options)


@pytest.mark.parametrize("command", ["sweep", "tune"])
def test_without_ray_its_extra_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "dni_deploy.jobs.ray_pool", raising=False)
    assert main([command, "x.dni", "in", "--reference", "clean", "--ray", "local"]) == 7
    assert "ray" in capsys.readouterr().err


def test_an_image_is_decoded_once_for_all_alphas(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    original = image_file.read_image

    def read(path: str, **options: Any) -> Any:
        decoded.append(path)
        return original(path, **options)

    monkeypatch.setattr("dni_deploy.tuning.trials.read_image", read)
    measure(folder)
    assert len(decoded) == len(set(decoded)) == 2 * COUNT


def test_the_table_has_every_image_at_every_alpha_and_the_mean(folder: Path, tmp_path: Path) -> None:
    report = measure(folder, SweepSettings(3, metrics=["ciede2000", "psnr"]), table=tmp_path / "t.csv", plot=tmp_path / "p.svg")
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "same", "half", "psnr", "pixels_psnr", "ciede2000"]
    assert [row["image"] for row in rows] == [image.name for image in report.images for _ in range(3)] + ["mean"] * 3
    assert [float(row["ciede2000"]) for row in rows[-3:]] == [point.values["ciede2000"] for point in report.points]
    assert [float(row["psnr"]) for row in rows[:3]] == list(report.images[0].psnrs or ())
    assert [float(row["same"]) for row in rows[:3]] == [0, 0.5, 1]
    assert "mean of 10 images" in (tmp_path / "p.svg").read_text(encoding="utf-8")
    assert report.files == (str(tmp_path / "t.csv"), str(tmp_path / "p.svg"))
    assert json.loads(json.dumps(report.to_json()))["rows"][0]["ciede2000"] == report.points[0].values["ciede2000"]


def test_images_that_fail_are_left_out_and_named(folder: Path, tmp_path: Path, expected: SweepReport) -> None:
    small = tmp_path / "small.png"
    Image.new("RGB", (3, 3)).save(small)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    good = [folder / "in" / "0.png", folder / "in" / "1.png"]
    clean = [folder / "clean" / "0.png", folder / "clean" / "1.png"]
    with pytest.raises(PartialResultError, match=r"2 of 4 images were measured, 2 failed\. First: .*will be 3x3") as caught:
        sweep_images(
            folder / "x.dni", [good[0], small, broken, good[1]], [clean[0], clean[0], small, clean[1]],
            settings=SETTINGS, table=tmp_path / "t.csv",
        )  # fmt: skip
    report = caught.value.report
    assert isinstance(report, SweepReport)
    assert [name for name, _ in report.failures] == ["small.png", "broken.png"]
    assert [type(error) for _, error in report.failures] == [MismatchError, ImageFileError]
    assert [image.psnrs for image in report.images] == [image.psnrs for image in expected.images[:2]]
    assert (tmp_path / "t.csv").exists()
    with pytest.raises(ImageFileError, match=r"None of 2 images was measured\. First: "):
        sweep_images(folder / "x.dni", [broken, broken], clean, settings=SETTINGS)


def test_a_metric_that_fails_is_told_once(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken_metric_of_sweep.py").write_text("def f(picture, reference): return float('nan')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"None of 10 images was measured\. First: .*gave NaN"):
        measure(folder, SweepSettings(2, metrics=["broken_metric_of_sweep:f"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settings": SweepSettings(1)}, "2 to 1001 steps"),
        ({"settings": SweepSettings(metrics=["sharpness"])}, "There is no metric 'sharpness'"),
        ({"settings": SweepSettings(even=True)}, "slider"),
        ({"table": "t.txt"}, r"written as \.csv"),
        ({"table": "nowhere/t.csv"}, "does not exist"),
        ({"plot": "p.gif"}, "A plot is written as"),
    ],
)
def test_what_cannot_be_measured_is_refused(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sweep_images(folder / "x.dni", folder / "in", folder / "clean", **options)


def test_an_image_without_a_reference_is_told_before_anything_runs(folder: Path) -> None:
    with pytest.raises(InputError, match=r"no reference named 0 for .*0\.png; of 7 images 7 have none"):
        sweep_images("no.dni", folder / "in", folder / "clean" / "more")


def test_an_identical_image_has_an_infinite_psnr(folder: Path) -> None:
    source = folder / "in" / "0.png"
    report = sweep_images(folder / "x.dni", source, source, settings=SweepSettings(2))
    assert report.points[1].psnr == math.inf
    assert report.to_json()["images"][0]["rows"][1]["psnr"] is None
    assert report.format_table().splitlines()[2].endswith(",inf,inf")


def test_what_travels_can_be_pickled(folder: Path) -> None:
    pairs = [ImagePair(f"{number}.png", f"in/{number}.png", "clean.png") for number in range(9)]
    units = make_units(pairs)
    assert [len(unit.pairs) for unit in units] == [4, 4, 1]
    assert [unit.id for unit in units] == sorted(unit.id for unit in units)
    bundle = Bundle.open(folder / "x.dni")
    factory = SweepWorkerFactory(bundle, ((0.0, 1.0),), SETTINGS, SessionOptions(rules=["norm:*=0.2"]))
    assert pickle.loads(pickle.dumps((factory, units))) == (factory, units)


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, expected: SweepReport) -> None:
    line = ["sweep", str(folder / "x.dni"), str(folder / "in"), "--reference", str(folder / "clean"), "-r", "--steps", "5"]
    assert main([*line, "--table", str(tmp_path / "t.csv"), "--metric", "ciede2000"]) == 0
    text = capsys.readouterr().out
    assert text.split("\n")[0].split() == ["same", "half", "PSNR", "ciede2000", "change", "frame"]
    assert "10 measured" in text
    assert "(mean of 10 images)" in text
    assert text.splitlines()[-1].split() == ["wrote", str(tmp_path / "t.csv")]
    assert main([*line, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [image["image"] for image in report["images"]] == [image.name for image in expected.images]
    assert [row["psnr"] for row in report["images"][3]["rows"]] == list(expected.images[3].psnrs or ())
    assert report["failed"] == []


def test_the_command_goes_on_after_an_image_that_fails(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    good, broken = str(folder / "in" / "0.png"), str(tmp_path / "broken.png")
    Path(broken).touch()
    clean = str(folder / "clean" / "0.png")
    line = ["sweep", str(folder / "x.dni"), good, broken, "--reference", clean, "--reference", clean, "--steps", "2"]
    assert main(line) == 8
    out, err = capsys.readouterr()
    assert "1 measured, 1 failed" in out
    assert f"failed  broken.png: The file {broken}" in out or "failed  broken.png: " in out
    assert "1 of 2 images were measured, 1 failed" in err


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("in/0.png", "Missing option -o"),
        ("in", "Missing option -o"),
        ("in -o sheet.png", "of one image"),
        ("in/0.png in/1.png -o sheet.png --reference clean", "of one image"),
        ("in --reference clean --html p.html", "give -o"),
        ("in/0.png -o sheet.png --table t.csv", "--table is for the numbers"),
        ("in/0.png -o sheet.png --metric ssim", "--metric is for the numbers"),
        ("in/0.png -o sheet.png --ray auto", "--ray is for the numbers"),
        ("in --reference clean --workers 2", "give --ray"),
        ("in/0.png -o sheet.png --reference a --reference b", "One image has one reference"),
    ],
)
def test_one_image_and_many_are_told_apart(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, answer: str
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    assert main(["sweep", "x.dni", *words.split()]) == 2
    assert answer in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before


class Killed:
    """A pool whose second unit kills its workers, as a cluster reports it."""

    def __init__(self, factory: Any, *arguments: object, **keywords: object) -> None:
        self._worker = factory.open_worker()

    def run_units(self, units: Any) -> Any:
        for number, unit in enumerate(units):
            if number == 1:
                yield UnitRow(unit.id, "", error=UnitError("EngineError", "It killed its worker 2 times.", 11))
            else:
                yield from self._worker.run_units([unit])

    def close(self) -> None:
        self._worker.close()


def test_images_that_kill_their_workers_have_failed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "open_workers", Killed)
    with pytest.raises(PartialResultError, match=r"6 of 10 images were measured, 4 failed\. First: It killed"):
        measure(folder)


@pytest.mark.slow
def test_workers_on_a_cluster_give_the_same_numbers(
    folder: Path, expected: SweepReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In sweep and in tune, with one start of Ray, and from a folder where relative paths mean something else to workers."""
    ray = pytest.importorskip("ray", reason="Ray is not installed (extra `ray`)")
    from dni_deploy.jobs.ray_cluster import connect_cluster

    monkeypatch.chdir(folder)
    with connect_cluster(RayOptions(ray="local")):
        for workers in (1, 2):
            options = RayOptions(ray="local", workers=workers)
            report = sweep_images("x.dni", "in", "clean", settings=SETTINGS, recursive=True, ray_options=options)
            assert numbers(report) == numbers(expected)
        here, there = (
            tune("x.dni", "in", reference="clean", recursive=True, evaluations=10, ray_options=options)
            for options in (None, RayOptions(ray="local", workers=2))
        )
        assert there.evaluations == here.evaluations
        assert (there.notes, there.chosen_index) == (here.notes, here.chosen_index)
    assert not ray.is_initialized()
