"""sweep: the path, the numbers, the finding, and the files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dni_deploy.api import sweep as sweep_module
from dni_deploy.api.sweep import plan_alphas, sweep
from dni_deploy.errors import MismatchError, UsageError
from dni_deploy.imaging.metrics.psnr import format_db, psnr
from dni_deploy.reports.contact_sheet import draw_contact_sheet
from dni_deploy.signature import Signature
from tests.support.color_files import ADOBE_ICC, render_by_profile
from tests.support.frame_session import Dimmer, opener


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    """An image, and the same image at 0.6 of its brightness."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    Image.fromarray(np.rint(pixels * 0.6).astype(np.uint8)).save(tmp_path / "clean.png")
    return tmp_path / "in.png", tmp_path / "clean.png"


@pytest.fixture
def dimmer(monkeypatch: pytest.MonkeyPatch) -> Dimmer:
    engine = Dimmer((1.0, 0.0))
    monkeypatch.setattr(sweep_module, "open_session", opener(engine, ("psnr", "gan")))
    return engine


def test_sweep_paths_between_members() -> None:
    assert plan_alphas(2, 3) == [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]
    assert plan_alphas(3, 3) == [(1, 0, 0), (0.5, 0.5, 0), (0, 1, 0), (0, 0.5, 0.5), (0, 0, 1)]
    for members in (2, 3, 5):
        for coefficients in plan_alphas(members, 21):
            assert math.fsum(coefficients) == pytest.approx(1, abs=1e-15)  # two coefficients, 1 - s and s
            assert min(coefficients) >= 0
    assert [list(point).count(1) for point in plan_alphas(3, 4)] == [1, 0, 0, 1, 0, 0, 1]


def test_best_blend_and_its_gain(tmp_path: Path, images: tuple[Path, Path], dimmer: Dimmer) -> None:
    source, clean = images
    calls: list[tuple[int, int, str]] = []
    report = sweep(
        "x.dni", source, tmp_path / "sheet.png", steps=11, reference=clean, html=tmp_path / "p.html",
        progress=lambda *call: calls.append(call),
    )  # fmt: skip
    assert report.best_index == 6
    assert report.points[6].coefficients == (0.6, 0.4)
    assert report.best_is_blend
    assert report.points[6].psnr == math.inf
    assert report.format_finding() == "The best is a blend, identical at psnr 0.6, gan 0.4."
    assert len(report.points) == 11
    assert calls[-1][:2] == (11, 11)
    assert dimmer.refits == 12  # the session's first alpha, then one refit per step
    assert dimmer.closed == 1
    report_json = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert report_json["best_alpha"] == {"psnr": 0.6, "gan": 0.4}
    assert report_json["rows"][6]["psnr"] is None
    assert report_json["rows"][6]["identical"]
    assert all(row.change_seconds > 0 and row.frame_seconds > 0 for row in report.points[:-1])
    assert (tmp_path / "p.html").read_text().startswith("<!doctype html>")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 4 * 30


def test_sweep_numbers_equal_those_of_the_images(tmp_path: Path, images: tuple[Path, Path], dimmer: Dimmer) -> None:
    source, clean_path = images
    with Image.open(source) as image:
        pixels = np.array(image)
    with Image.open(clean_path) as image:
        clean = np.array(image)
    report = sweep("x.dni", source, tmp_path / "sheet.png", steps=5, reference=clean_path)
    for row in report.points:
        assert row.psnr == pytest.approx(psnr(np.rint(pixels * row.coefficients[0]), clean), abs=0.02)  # rounding in float32
        assert row.pixel_blend_psnr == pytest.approx(psnr(pixels * row.coefficients[0], clean), abs=1e-4)
    ends = max(report.points[0].psnr or 0, report.points[-1].psnr or 0)
    best = report.points[report.best_index or 0].psnr
    assert best is not None
    assert report.gain_db == pytest.approx(best - ends)
    assert f"{report.gain_db:.2f} dB above" in report.format_finding()


def test_sheet_and_page_show_the_colors_of_a_profile(tmp_path: Path, dimmer: Dimmer) -> None:
    flat = np.full((16, 16, 3), (100, 200, 100), np.uint8)
    Image.fromarray(flat).save(tmp_path / "in.png", icc_profile=ADOBE_ICC)
    sweep("x.dni", tmp_path / "in.png", tmp_path / "sheet.png", steps=2)
    with Image.open(tmp_path / "sheet.png") as sheet:
        colors = {color for _, color in sheet.getcolors(1 << 20)}
    shown = tuple(render_by_profile(flat, ADOBE_ICC)[0, 0].tolist())
    assert shown in colors
    assert (100, 200, 100) not in colors


def test_a_best_point_at_a_member_is_reported_as_such(tmp_path: Path, images: tuple[Path, Path], dimmer: Dimmer) -> None:
    source, _ = images
    report = sweep("x.dni", source, tmp_path / "sheet.png", steps=3, reference=source)
    assert report.best_index == 2
    assert report.best_is_blend is False
    assert "an end of the sweep" in report.format_finding()
    assert report.to_json()["best_is_a_blend"] is False


def test_sweep_of_three_members_visits_each_in_turn(
    tmp_path: Path, images: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="the plot needs the extra `report`")
    monkeypatch.setattr(sweep_module, "open_session", opener(Dimmer((1.0, 0.5, 0.0)), ("a", "b", "c")))
    source, clean = images
    report = sweep(
        "x.dni", source, tmp_path / "sheet.png", steps=6, reference=clean, html=tmp_path / "p.html", plot=tmp_path / "p.svg"
    )
    assert report.points[report.best_index or 0].coefficients == pytest.approx((0.2, 0.8, 0.0))
    assert len(report.points) == 11
    assert all(row.pixel_blend_psnr is None for row in report.points)
    assert "blended pixels of" not in (tmp_path / "p.html").read_text()
    assert "<svg" in (tmp_path / "p.svg").read_text()


def test_sweep_works_without_a_reference(tmp_path: Path, images: tuple[Path, Path], dimmer: Dimmer) -> None:
    report = sweep("x.dni", images[0], tmp_path / "sheet.jpg", steps=2, html=tmp_path / "p.html")
    assert report.best_index is None
    assert report.gain_db is None
    assert "dB" not in (tmp_path / "p.html").read_text().split("<main>")[1].split("<script")[0]
    assert report.to_json()["best_alpha"] is None


def test_bad_arguments_are_refused_before_anything_is_written(
    tmp_path: Path, images: tuple[Path, Path], dimmer: Dimmer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, clean = images
    sheet = tmp_path / "sheet.png"
    Image.new("RGB", (3, 3)).save(tmp_path / "small.png")
    (tmp_path / "old.html").write_text("precious")
    for options, match in (
        ({"steps": 1}, "2 to 1001"),
        ({"plot": tmp_path / "p.png"}, "reference"),
        ({"html": tmp_path / "page.png"}, "html"),
        ({"html": tmp_path / "old.html"}, "exists"),
        ({"plot": sheet, "reference": clean}, "one name"),
        ({"html": tmp_path / "no" / "p.html"}, "does not exist"),
    ):
        with pytest.raises(UsageError, match=match):
            sweep("x.dni", source, sheet, **options)  # type: ignore[arg-type]
    with pytest.raises(MismatchError, match="3x3"):
        sweep("x.dni", source, sheet, reference=tmp_path / "small.png")
    monkeypatch.setattr(sweep_module, "MAX_OUTPUT_PIXELS", 20 * 30 * 10)
    with pytest.raises(UsageError, match="fewer steps"):
        sweep("x.dni", source, sheet)
    assert not sheet.exists()
    assert (tmp_path / "old.html").read_text() == "precious"


def test_scaling_networks_are_compared_at_output_size(
    tmp_path: Path, images: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Dimmer((1.0, 0.0), scale=2)
    monkeypatch.setattr(sweep_module, "open_session", opener(engine, ("a", "b"), Signature(scale=2, radius=0)))
    with pytest.raises(MismatchError, match="60x40"):
        sweep("x.dni", images[0], tmp_path / "sheet.png", reference=images[1])


def test_contact_sheet_shows_every_frame() -> None:
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]
    frames = [np.full((600, 700, 3), color, np.uint8) for color in colors]
    sheet = draw_contact_sheet(frames, [["one line"]] * 5, best_index=2, caption="five")
    for color in colors:
        count = int((sheet == color).all(axis=2).sum())
        assert 0.95 * 512 * 439 < count <= 512 * 439  # reduced to 512 on the longer side; edges may be softened
    with pytest.raises(UsageError):
        draw_contact_sheet(frames, [["a"]])


def test_sweep_reports_several_metrics() -> None:
    black, white = np.zeros((2, 3, 3), np.uint8), np.full((2, 3, 3), 255, np.uint8)
    assert psnr(black, white) == 0
    assert psnr(black, black) == math.inf
    assert format_db(math.inf) == "identical"
    assert psnr(black, black + np.uint8(1)) == pytest.approx(20 * math.log10(255))
    with pytest.raises(MismatchError, match="3x2"):
        psnr(black, white[:1])
