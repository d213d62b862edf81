"""run: files, folders, and errors of single files."""

from __future__ import annotations

import json
import signal
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dni_deploy.api.run import RunReport, run
from dni_deploy.api.run_images import ImageFailure
from dni_deploy.errors import (
    CoefficientsError,
    EngineError,
    ImageFileError,
    InputError,
    LimitError,
    MismatchError,
    PartialResultError,
    UsageError,
)
from dni_deploy.imaging.image_file import ImageFile, read_image
from dni_deploy.imaging.image_file import write_image as write_deep_image
from dni_deploy.imaging.image_tasks import ImageFileOptions
from dni_deploy.imaging.resize import resize_frame
from dni_deploy.signature import Signature
from dni_deploy.spatial.alpha_map import AlphaMapOptions
from tests.support.color_files import ADOBE_ICC, encode, make_exif, make_pixels
from tests.support.frame_session import Dimmer, run_over


@pytest.fixture
def dimmer(monkeypatch: pytest.MonkeyPatch) -> Dimmer:
    """Member a keeps the image, member b makes it black."""
    engine = Dimmer((1.0, 0.0))
    run_over(monkeypatch, engine)
    return engine


def write_image(path: Path, width: int = 8, height: int = 6, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def read_pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def test_one_image_is_rendered(tmp_path: Path, dimmer: Dimmer) -> None:
    pixels = write_image(tmp_path / "in.png")
    report = run("x.dni", tmp_path / "in.png", tmp_path / "out.png", 0.5)
    assert np.array_equal(read_pixels(tmp_path / "out.png"), np.rint(pixels / 2).astype(np.uint8))  # np.rint: half to even
    assert report.alpha == {"a": 0.5, "b": 0.5}
    assert (report.images[0].width, report.images[0].height, report.images[0].tiles) == (8, 6, 1)
    assert dimmer.closed == 1
    json.dumps(report.to_json(), allow_nan=False)


def test_one_image_can_be_written_in_another_format_and_to_a_folder(tmp_path: Path, dimmer: Dimmer) -> None:
    pixels = write_image(tmp_path / "in.png")
    run("x.dni", str(tmp_path / "in.png"), str(tmp_path / "out.bmp"), "a=1")
    assert np.array_equal(read_pixels(tmp_path / "out.bmp"), pixels)
    (tmp_path / "folder").mkdir()
    run("x.dni", tmp_path / "in.png", tmp_path / "folder", 1)
    assert np.array_equal(read_pixels(tmp_path / "folder" / "in.png"), pixels)


def test_notes_of_an_image_are_a_list_in_json(tmp_path: Path, dimmer: Dimmer) -> None:
    Image.new("P", (8, 6)).save(tmp_path / "in.png")
    report = run("x.dni", tmp_path / "in.png", tmp_path / "out.png", 1)
    assert report.images[0].notes == ("the palette was resolved to RGB",)
    assert json.loads(json.dumps(report.to_json()))["images"][0]["notes"] == ["the palette was resolved to RGB"]


def test_folders_are_read_one_level_deep(tmp_path: Path, dimmer: Dimmer) -> None:
    source = tmp_path / "in"
    (source / "deeper").mkdir(parents=True)
    write_image(source / "deeper" / "x.png")
    (source / "notes.txt").write_text("no picture")
    (source / ".hidden.png").write_text("no picture")
    expected = {f"{name}.png": write_image(source / f"{name}.png", seed=seed) for seed, name in enumerate("cab")}
    write_image(tmp_path / "single.png", seed=9)
    calls: list[tuple[int, int, str]] = []
    report = run("x.dni", [source, tmp_path / "single.png"], tmp_path / "out", 1, progress=lambda *call: calls.append(call))
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["a.png", "b.png", "c.png", "single.png"]
    assert all(np.array_equal(read_pixels(tmp_path / "out" / name), pixels) for name, pixels in expected.items())
    assert report.skipped == {"not_image": (str(source / "notes.txt"),)}
    assert [call[:2] for call in calls] == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert dimmer.refits == 1


def test_run_tiles_large_images(tmp_path: Path, dimmer: Dimmer) -> None:
    pixels = write_image(tmp_path / "in.png", 100, 40)
    report = run("x.dni", tmp_path / "in.png", tmp_path / "out.png", 1, tile=32, overlap=4)
    assert report.images[0].tiles == 8  # 4 across (24 new columns each), 2 down
    assert np.array_equal(read_pixels(tmp_path / "out.png"), pixels)


def test_scale_and_transparency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_over(monkeypatch, Dimmer((1.0, 0.0), scale=2))
    rgba = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    rgba[..., 3] = 200
    Image.fromarray(rgba).save(tmp_path / "in.png")
    run("x.dni", tmp_path / "in.png", tmp_path / "out.png", 1)
    out = read_pixels(tmp_path / "out.png")
    assert out.shape == (10, 14, 4)
    assert (out[..., 3] == 200).all()


def test_outputs_are_checked_before_work_starts(tmp_path: Path, dimmer: Dimmer) -> None:
    source, output_path = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    output_path.mkdir()
    for name in ("a.png", "b.png"):
        write_image(source / name)
    (output_path / "b.png").write_bytes(b"precious")
    with pytest.raises(UsageError, match=r"b\.png exists"):
        run("x.dni", source, output_path, 1)
    assert [path.name for path in output_path.iterdir()] == ["b.png"]
    assert dimmer.refits == 0
    run("x.dni", source, output_path, 1, force=True)
    assert read_pixels(output_path / "b.png").shape == (6, 8, 3)


def test_an_input_is_never_overwritten(tmp_path: Path, dimmer: Dimmer) -> None:
    write_image(tmp_path / "in.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "in.png")
    for output_path in (tmp_path / "in.png", tmp_path / "link.png", tmp_path):
        with pytest.raises(UsageError, match="is an input"):
            run("x.dni", tmp_path / "in.png", output_path, 1, force=True)


def test_two_inputs_with_one_output_are_refused(tmp_path: Path, dimmer: Dimmer) -> None:
    for folder, name in (("one", "a.png"), ("two", "A.png")):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / name)
    with pytest.raises(UsageError, match="would both be written"):
        run("x.dni", [tmp_path / "one", tmp_path / "two"], tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


def test_missing_inputs_are_refused(tmp_path: Path, dimmer: Dimmer) -> None:
    (tmp_path / "empty").mkdir()
    write_image(tmp_path / "in.png")
    with pytest.raises(InputError, match="does not exist"):
        run("x.dni", tmp_path / "none.png", tmp_path / "out.png", 1)
    with pytest.raises(InputError, match="holds no image"):
        run("x.dni", tmp_path / "empty", tmp_path / "out", 1)
    with pytest.raises(UsageError, match="no input"):
        run("x.dni", [], tmp_path / "out", 1)
    with pytest.raises(UsageError, match="no image format"):
        run("x.dni", tmp_path / "in.png", tmp_path / "out.xyz", 1)
    with pytest.raises(UsageError, match="does not exist"):
        run("x.dni", tmp_path / "in.png", tmp_path / "nowhere" / "out.png", 1)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="is a file"):
        run("x.dni", [tmp_path / "in.png", tmp_path / "in.png"], tmp_path / "file", 1)
    with pytest.raises(CoefficientsError):
        run("x.dni", tmp_path / "in.png", tmp_path / "out.png", 1.5)
    assert not (tmp_path / "out.png").exists()


def test_one_failed_image_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Dimmer((1.0, 0.0), broken=11)
    run_over(monkeypatch, engine)
    source = tmp_path / "in"
    source.mkdir()
    write_image(source / "a.png")
    (source / "b.png").write_bytes(b"<html>")
    write_image(source / "c.png", width=11)  # the network gives a NaN for it
    write_image(source / "d.png")
    with pytest.raises(PartialResultError, match=r"2 of 4 images were processed.*2 failed\. First: .*b\.png is a web page"):
        run("x.dni", source, tmp_path / "out", 1)
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["a.png", "d.png"]
    assert engine.closed == 1


def test_a_single_failure_or_only_failures_raise_the_original_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_over(monkeypatch, Dimmer((1.0, 0.0), broken=11))
    write_image(tmp_path / "c.png", width=11)
    with pytest.raises(EngineError, match="NaN"):
        run("x.dni", tmp_path / "c.png", tmp_path / "out.png", 1)
    for name in ("x.png", "y.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ImageFileError, match="None of 2 images"):
        run("x.dni", [tmp_path / "x.png", tmp_path / "y.png"], tmp_path / "out", 1)
    assert not (tmp_path / "out.png").exists()


def test_an_output_too_large_at_this_scale_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_over(monkeypatch, Dimmer((1.0,) * 2, scale=4), Signature(scale=4, radius=0))
    monkeypatch.setenv("DNI_MAX_PIXELS", "100_000_000")
    Image.new("L", (2501, 2500)).save(tmp_path / "in.png")
    with pytest.raises(LimitError, match=r"output 10004x10000, and 100,000,000 are allowed"):
        run("x.dni", tmp_path / "in.png", tmp_path / "out.png", 1)


def mask(path: Path, width: int = 8, height: int = 6) -> np.ndarray:
    """Black on the left, white on the right, and between them one column of gray 51, a fifth."""
    gray = np.zeros((height, width), np.uint8)
    gray[:, width // 2 :] = 255
    gray[:, width // 2] = 51
    Image.fromarray(gray).save(path)
    return gray / 255


def test_run_renders_an_alpha_map(tmp_path: Path, dimmer: Dimmer) -> None:
    pixels, coefficient = write_image(tmp_path / "in.png"), mask(tmp_path / "mask.png")
    calls: list[tuple[int, int, str]] = []
    report = run(
        "x.dni",
        tmp_path / "in.png",
        tmp_path / "out.png",
        alpha_map=tmp_path / "mask.png",
        progress=lambda *call: calls.append(call),
    )
    assert [call[:2] for call in calls] == [(0, 1)] * 4 + [(1, 1)]
    assert calls[2][2] == "in.png: run 2 of 3, a=0.2, b=0.8"
    assert np.array_equal(
        read_pixels(tmp_path / "out.png"), np.rint(pixels * np.float32(1) * coefficient[..., None]).astype(np.uint8)
    )
    assert (report.alpha, report.alpha_white) == ({"a": 0.0, "b": 1.0}, {"a": 1.0, "b": 0.0})
    figures = report.images[0].alpha_map
    assert figures is not None
    assert (figures.levels, figures.exact, figures.error_max) == (3, True, None)
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["images"][0]["alpha_map"]["levels"] == 3


def test_an_alpha_map_between_two_alphas_can_be_resized_and_measured(tmp_path: Path, dimmer: Dimmer) -> None:
    pixels = write_image(tmp_path / "in.png", 80, 60)
    Image.fromarray(np.arange(0, 240, 3, dtype=np.uint8)[None].repeat(2, axis=0)).save(tmp_path / "mask.png")
    options = AlphaMapOptions(tmp_path / "mask.png", white=0.75, levels=5, resize_to_fit=True, measure_error=True)
    report = run("x.dni", tmp_path / "in.png", tmp_path / "out.png", 0.25, alpha_map=options)
    coefficient = np.clip(np.arange(0, 240, 3) / 255, 0, 1)[:, None]
    # The fake engine is linear in alpha, so levels add no error: half a level of rounding, after float32.
    assert np.abs(read_pixels(tmp_path / "out.png") - pixels * (0.25 + 0.5 * coefficient)).max() <= 0.5 + 1e-3
    figures = report.images[0].alpha_map
    assert figures is not None
    assert figures.error_max is not None
    assert figures.error_max < 1e-3
    assert not figures.exact


def test_invalid_maps_are_refused(tmp_path: Path, dimmer: Dimmer) -> None:
    write_image(tmp_path / "in.png")
    mask(tmp_path / "small.png", 4, 4)
    Image.new("RGBA", (8, 6)).save(tmp_path / "clear.png")
    for name, kind in (("small.png", MismatchError), ("clear.png", ImageFileError), ("none.png", InputError)):
        with pytest.raises(kind):
            run("x.dni", tmp_path / "in.png", tmp_path / "out.png", alpha_map=tmp_path / name)
    with pytest.raises(UsageError, match="Which alpha"):
        run("x.dni", tmp_path / "in.png", tmp_path / "out.png")
    with pytest.raises(UsageError, match="is an input"):
        run("x.dni", tmp_path / "in.png", tmp_path / "small.png", alpha_map=tmp_path / "small.png", force=True)
    assert not (tmp_path / "out.png").exists()


def test_a_refit_that_fails_within_a_map_writes_nothing(tmp_path: Path, dimmer: Dimmer) -> None:
    write_image(tmp_path / "in.png")
    mask(tmp_path / "mask.png")
    (tmp_path / "out.png").write_bytes(b"precious")
    whole = dimmer.refit

    def failing(slot: int, coefficients: np.ndarray) -> None:
        if coefficients[0] == 0.2:  # an inner level
            raise EngineError("The device is gone.")
        whole(slot, coefficients)

    dimmer.refit = failing  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="gone"):
        run("x.dni", tmp_path / "in.png", tmp_path / "out.png", alpha_map=tmp_path / "mask.png", force=True)
    assert (tmp_path / "out.png").read_bytes() == b"precious"
    assert {path.name for path in tmp_path.iterdir()} == {"in.png", "mask.png", "out.png"}


def make_tree(folder: Path) -> dict[str, np.ndarray]:
    """Writes images at two depths and a file that is none."""
    (folder / "deep/er").mkdir(parents=True)
    (folder / "deep/notes.txt").write_text("no image")
    return {name: write_image(folder / f"{name}.png", seed=seed) for seed, name in enumerate(("a", "deep/b", "deep/er/c"))}


def test_a_recursive_run_keeps_the_structure_and_is_continued(tmp_path: Path, dimmer: Dimmer) -> None:
    expected = make_tree(tmp_path / "in")
    recursive = ImageFileOptions(recursive=True)
    run("x.dni", tmp_path / "in", tmp_path / "out", 1, file_options=recursive)
    for name, pixels in expected.items():
        assert np.array_equal(read_pixels(tmp_path / f"out/{name}.png"), pixels)
    (tmp_path / "out/deep/b.png").unlink()
    before = (tmp_path / "out/a.png").stat().st_mtime_ns
    again = ImageFileOptions(recursive=True, skip_existing=True)
    report = run("x.dni", tmp_path / "in", tmp_path / "out", 1, file_options=again)
    assert [row.output for row in report.images] == [str(tmp_path / "out/deep/b.png")]
    assert {reason: len(paths) for reason, paths in report.skipped.items()} == {"exists": 2, "not_image": 1}
    assert (tmp_path / "out/a.png").stat().st_mtime_ns == before
    opened = dimmer.closed
    report = run("x.dni", tmp_path / "in", tmp_path / "out", 1, file_options=again)
    assert (report.images, report.failed, dimmer.closed) == ((), (), opened)  # no engine for nothing


def test_formats_suffixes_and_qualities(tmp_path: Path, dimmer: Dimmer) -> None:
    make_tree(tmp_path / "in")
    for quality in (20, 95):
        options = ImageFileOptions(file_format="jpg", suffix=f"_{quality}", quality=quality)
        run("x.dni", tmp_path / "in", tmp_path / "out", 1, file_options=options)
    sizes = [(tmp_path / f"out/a_{quality}.jpg").stat().st_size for quality in (20, 95)]
    assert sizes[0] < sizes[1]
    pixels = write_image(tmp_path / "in.png", 64, 48)
    run("x.dni", tmp_path / "in.png", tmp_path / "lossless.webp", 1)
    run("x.dni", tmp_path / "in.png", tmp_path / "lossy.webp", 1, file_options=ImageFileOptions(quality=50))
    assert np.array_equal(read_pixels(tmp_path / "lossless.webp"), pixels)
    assert not np.array_equal(read_pixels(tmp_path / "lossy.webp"), pixels)
    assert (tmp_path / "lossy.webp").stat().st_size < (tmp_path / "lossless.webp").stat().st_size / 2


def write_rgba(path: Path, alpha: int, corner: int) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (6, 8, 4), dtype=np.uint8)
    rgba[..., 3] = alpha
    rgba[0, 0, 3] = corner
    Image.fromarray(rgba).save(path)


def test_a_format_that_cannot_hold_the_image_is_replaced_in_a_folder(tmp_path: Path, dimmer: Dimmer) -> None:
    (tmp_path / "in").mkdir()
    write_rgba(tmp_path / "in/clear.png", 255, 254)
    write_rgba(tmp_path / "in/opaque.png", 255, 255)
    jpeg = ImageFileOptions(file_format="jpg")
    report = run("x.dni", tmp_path / "in", tmp_path / "out", 1, file_options=jpeg)
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["clear.png", "opaque.jpg"]
    assert [row.output for row in report.images] == [str(tmp_path / "out/clear.png"), str(tmp_path / "out/opaque.jpg")]
    assert report.images[0].notes == ("written as .png, since a JPEG file has no transparency",)
    assert read_pixels(tmp_path / "out/clear.png").shape == (6, 8, 4)
    again = ImageFileOptions(file_format="jpg", skip_existing=True)
    assert run("x.dni", tmp_path / "in", tmp_path / "out", 1, file_options=again).images == ()
    with pytest.raises(UsageError, match=r"write \.png"):
        run("x.dni", tmp_path / "in/clear.png", tmp_path / "single.jpg", 1)
    (tmp_path / "other.d").mkdir()
    (tmp_path / "other.d/clear.png").write_bytes(b"precious")
    with pytest.raises(UsageError, match=r"clear\.png exists"):
        run("x.dni", tmp_path / "in/clear.png", tmp_path / "other.d", 1, file_options=jpeg)
    assert (tmp_path / "other.d/clear.png").read_bytes() == b"precious"


def test_an_image_too_long_for_its_format_becomes_png(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_over(monkeypatch, Dimmer((1.0, 0.0), scale=2))
    Image.new("RGB", (8192, 1)).save(tmp_path / "long.webp", lossless=True)
    report = run("x.dni", tmp_path / "long.webp", tmp_path / "out", 1)
    assert report.images[0].output == str(tmp_path / "out/long.png")
    assert report.images[0].notes == ("written as .png, since a WEBP file holds at most 16383 pixels a side",)
    (tmp_path / "two").mkdir()
    (tmp_path / "two/long.webp").write_bytes((tmp_path / "long.webp").read_bytes())
    write_image(tmp_path / "two/long.png")
    with pytest.raises(PartialResultError, match=r"long\.png is the output of another image"):
        run("x.dni", tmp_path / "two", tmp_path / "out2", 1)


def test_outputs_are_resized_by_lanczos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_over(monkeypatch, Dimmer((1.0, 0.0), scale=4))
    write_rgba(tmp_path / "in.png", 200, 100)
    whole = run("x.dni", tmp_path / "in.png", tmp_path / "whole.png", 1).images[0]
    for name, options in (("a", ImageFileOptions(outscale=2)), ("b", ImageFileOptions(size=(16, 12)))):
        row = run("x.dni", tmp_path / "in.png", tmp_path / f"{name}.png", 1, file_options=options).images[0]
        assert (row.width, row.height) == (16, 12)
    out = read_pixels(tmp_path / "a.png")
    assert np.array_equal(out, read_pixels(tmp_path / "b.png"))
    assert np.array_equal(
        out[..., :3], resize_frame(np.ascontiguousarray(read_pixels(tmp_path / "whole.png")[..., :3]), 16, 12)
    )
    assert (whole.width, whole.height) == (32, 24)
    with pytest.raises(LimitError):
        run("x.dni", tmp_path / "in.png", tmp_path / "huge.png", 1, file_options=ImageFileOptions(size=(10**6, 10**6)))


def test_a_report_is_complete_also_where_images_failed(tmp_path: Path, dimmer: Dimmer) -> None:
    make_tree(tmp_path / "in")
    for name in ("in/b.png", "in/deep/bad.jpg"):
        (tmp_path / name).write_bytes(b"<html>")
    failures: list[ImageFailure] = []
    calls: list[tuple[int, int, str]] = []
    with pytest.raises(PartialResultError, match=r"3 of 5 images were processed.*2 failed") as caught:
        run(
            "x.dni",
            tmp_path / "in",
            tmp_path / "out",
            1,
            file_options=ImageFileOptions(recursive=True),
            progress=lambda *call: calls.append(call),
            report_failure=failures.append,
        )
    report = caught.value.report
    assert isinstance(report, RunReport)
    assert [Path(row.output).name for row in report.images] == ["a.png", "b.png", "c.png"]
    assert [Path(failure.source).name for failure in report.failed] == ["b.png", "bad.jpg"]
    assert list(report.failed) == failures
    printed = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert printed["failed"][0]["kind"] == "ImageFileError"
    assert "b.png is a web page" in printed["failed"][0]["message"]
    assert list(printed["skipped"]) == ["not_image"]
    assert [call[:2] for call in calls] == [(done, 5) for done in range(6)]
    with pytest.raises(ImageFileError) as caught_single:  # the last one of a folder: the report is there, too
        run("x.dni", tmp_path / "in/b.png", tmp_path / "out2", 1)
    assert isinstance(caught_single.value.report, RunReport)
    assert caught_single.value.report.failed[0].error is caught_single.value


def test_many_images_at_once_are_what_each_is_alone(tmp_path: Path, dimmer: Dimmer) -> None:
    (tmp_path / "in").mkdir()
    expected = [write_image(tmp_path / f"in/{seed:02}.png", 8 + seed % 5, 6 + seed % 3, seed) for seed in range(40)]
    report = run("x.dni", tmp_path / "in", tmp_path / "out", 1)
    assert [Path(row.source).name for row in report.images] == [f"{seed:02}.png" for seed in range(40)]
    for seed, pixels in enumerate(expected):
        assert np.array_equal(read_pixels(tmp_path / f"out/{seed:02}.png"), pixels)


def test_an_interrupted_run_leaves_whole_files_and_nothing_else(tmp_path: Path, dimmer: Dimmer) -> None:
    (tmp_path / "in").mkdir()
    for seed in range(60):
        write_image(tmp_path / f"in/{seed:02}.png", 64, 48, seed)
    seen: list[int] = []

    def stop_at_the_fifth(done: int, total: int, what: str) -> None:
        seen.append(done)
        if done == 5:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run("x.dni", tmp_path / "in", tmp_path / "out", 1, progress=stop_at_the_fifth)
    written = sorted((tmp_path / "out").glob("[!.]*"))
    assert 5 <= len(written) == seen[-1] < 60
    assert all(read_pixels(path).shape == (48, 64, 3) for path in written)
    assert dimmer.closed == 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("overlap")]


def test_filters_of_warnings_are_as_before(tmp_path: Path, dimmer: Dimmer) -> None:
    (tmp_path / "in").mkdir()
    for seed in range(20):
        write_image(tmp_path / f"in/{seed}.png", seed=seed)
    before = list(warnings.filters)
    run("x.dni", tmp_path / "in", tmp_path / "out", 1)
    assert warnings.filters == before


def test_metadata_are_kept_or_stripped_and_colors_stay(tmp_path: Path, dimmer: Dimmer) -> None:
    exif = make_exif(orientation=6, color_space=65535, interoperability=b"R03")
    (tmp_path / "in.jpg").write_bytes(encode(make_pixels(8, 16), "JPEG", exif=exif, comment=b"hello"))
    run("x.dni", tmp_path / "in.jpg", tmp_path / "kept.png", 1)
    run("x.dni", tmp_path / "in.jpg", tmp_path / "bare.png", 1, file_options=ImageFileOptions(strip=True))
    with Image.open(tmp_path / "kept.png") as kept, Image.open(tmp_path / "bare.png") as bare:
        assert kept.size == bare.size == (8, 16)
        assert kept.getexif()[315] == "Ada Lovelace"
        assert kept.info["Comment"] == "hello"
        assert kept.info["icc_profile"] == bare.info["icc_profile"]
        assert set(bare.info) == {"icc_profile"}


def test_what_the_output_cannot_hold_is_a_note_of_its_row(tmp_path: Path, dimmer: Dimmer) -> None:
    (tmp_path / "in.jpg").write_bytes(encode(make_pixels(), "JPEG", exif=make_exif(), icc_profile=ADOBE_ICC))
    report = run("x.dni", tmp_path / "in.jpg", tmp_path / "out.bmp", 1)
    assert report.images[0].notes == (
        "the colors were converted to sRGB: a BMP file holds no color profile",
        "left out: EXIF, for which a BMP file has no place",
    )


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_go_through_tiles_and_are_written_as_they_came(tmp_path: Path, dimmer: Dimmer, suffix: str) -> None:
    pytest.importorskip("imagecodecs")
    values = np.random.default_rng(0).integers(0, 65536, (40, 100, 3), dtype=np.uint16)
    write_deep_image(tmp_path / f"in.{suffix}", ImageFile(values))
    report = run("x.dni", tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}", 1, tile=32, overlap=4)
    assert report.images[0].tiles == 8
    assert report.images[0].notes == ()
    assert np.array_equal(read_image(tmp_path / f"out.{suffix}").rgb, values)
    (row,) = run("x.dni", tmp_path / f"in.{suffix}", tmp_path / "out.webp", 1).images
    assert "16 bits a channel became 8 bits" in row.notes[0]
    assert np.array_equal(read_pixels(tmp_path / "out.webp"), np.rint(values / 257))


def test_floats_above_white_stay(tmp_path: Path, dimmer: Dimmer) -> None:
    pytest.importorskip("imagecodecs")
    values = (np.random.default_rng(0).random((8, 6, 3)) * 4).astype(np.float32)
    write_deep_image(tmp_path / "in.tif", ImageFile(values))
    (row,) = run("x.dni", tmp_path / "in.tif", tmp_path / "out.tif", 0.5).images
    assert np.array_equal(read_image(tmp_path / "out.tif").rgb, values / 2)
    assert "went to the network as they are" in row.notes[0]


def test_max_pixels_is_a_limit_and_lifts_that_of_memory(
    tmp_path: Path, dimmer: Dimmer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "in.png")
    monkeypatch.setattr("dni_deploy.imaging.image_limits.available_memory_bytes", lambda: 100)
    with pytest.raises(LimitError, match="--max-pixels 48"):
        run("x.dni", tmp_path / "in.png", tmp_path / "out.png", 1)
    run("x.dni", tmp_path / "in.png", tmp_path / "out.png", 1, file_options=ImageFileOptions(max_pixels=48))
    with pytest.raises(LimitError, match="47 are allowed"):
        run("x.dni", tmp_path / "in.png", tmp_path / "b.png", 1, file_options=ImageFileOptions(max_pixels=47))


def test_an_image_without_memory_fails_alone(tmp_path: Path, dimmer: Dimmer, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    for seed, name in enumerate("abc"):
        write_image(tmp_path / f"in/{name}.png", width=11 if name == "b" else 8, seed=seed)
    whole = dimmer.infer

    def infer(slot: int, x: np.ndarray) -> np.ndarray:
        if x.shape[3] == 11:
            raise MemoryError
        return whole(slot, x)

    dimmer.infer = infer  # type: ignore[method-assign]
    with pytest.raises(PartialResultError, match=r"1 failed\. First: .*b\.png needs more memory"):
        run("x.dni", tmp_path / "in", tmp_path / "out", 1)
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["a.png", "c.png"]
