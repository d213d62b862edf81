"""Plans of batches: which image goes where, what is left out, and everything that is refused before the work begins."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from dni_deploy.errors import InputError, UsageError
from dni_deploy.imaging.image_tasks import ImageFileOptions, ImagePlan, plan_image_tasks


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def outputs_of(plan: ImagePlan, folder: Path) -> list[str]:
    return [Path(task.output).relative_to(folder).as_posix() for task in plan.tasks]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """in/ with images at three depths, a file that is none, hidden ones, and links to folders, one of them a loop."""
    touch(tmp_path / "in", "a.png", "z/b.jpg", "m/deep/c.webp", "notes.txt", ".hidden.png", ".hidden/d.png")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/z/other").symlink_to(tmp_path / "in/m")
    return tmp_path


def test_a_recursive_plan_keeps_the_structure_and_follows_no_link(tree: Path) -> None:
    plan = plan_image_tasks(tree / "in", tree / "out", ImageFileOptions(recursive=True))
    assert outputs_of(plan, tree / "out") == ["a.png", "m/deep/c.webp", "z/b.jpg"]
    assert [Path(task.source).relative_to(tree / "in").as_posix() for task in plan.tasks] == [
        "a.png",
        "m/deep/c.webp",
        "z/b.jpg",
    ]
    assert plan.skipped == {
        "not_image": (str(tree / "in/notes.txt"),),
        "linked_folder": (str(tree / "in/loop"), str(tree / "in/z/other")),
    }
    assert not (tree / "out").exists()


def test_a_plain_plan_takes_what_lies_directly_in_a_folder(tree: Path) -> None:
    plan = plan_image_tasks(tree / "in", tree / "out")
    assert outputs_of(plan, tree / "out") == ["a.png"]
    assert list(plan.skipped) == ["not_image"]


def test_outputs_of_an_earlier_run_are_no_inputs(tree: Path) -> None:
    touch(tree / "in", "out/a.png")
    recursive = ImageFileOptions(recursive=True)
    plan = plan_image_tasks(tree / "in", tree / "in/out", recursive, force=True)
    assert outputs_of(plan, tree / "in/out") == ["a.png", "m/deep/c.webp", "z/b.jpg"]
    touch(tree / "in", "a_x2.png")
    plan = plan_image_tasks(tree / "in", tree / "in", ImageFileOptions(suffix="_x2"), force=True)
    assert outputs_of(plan, tree / "in") == ["a_x2.png"]
    assert plan.skipped["earlier_output"] == (str(tree / "in/a_x2.png"),)


def test_an_unreadable_folder_is_left_out(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("m"))
    plan = plan_image_tasks(tree / "in", tree / "out", ImageFileOptions(recursive=True))
    assert outputs_of(plan, tree / "out") == ["a.png", "z/b.jpg"]
    assert plan.skipped["unreadable_folder"] == (str(tree / "in/m"),)


@pytest.mark.parametrize(
    ("name", "options", "output_name"),
    [
        ("a.png", ImageFileOptions(), "a.png"),
        ("a.JPG", ImageFileOptions(), "a.JPG"),
        ("a.gif", ImageFileOptions(), "a.png"),
        ("a", ImageFileOptions(), "a.png"),
        ("a.b.png", ImageFileOptions(suffix="_x4"), "a.b_x4.png"),
        ("a.png", ImageFileOptions(file_format="jpg"), "a.jpg"),
        ("a.jpeg", ImageFileOptions(file_format="jpg"), "a.jpeg"),
        ("a.TIFF", ImageFileOptions(file_format="tif", suffix="-2"), "a-2.TIFF"),
        ("a.webp", ImageFileOptions(file_format="same", suffix="-2"), "a-2.webp"),
    ],
)
def test_output_names(name: str, options: ImageFileOptions, output_name: str) -> None:
    assert options.make_output_name(name) == output_name


@pytest.mark.parametrize(
    ("output", "is_folder"), [("v1.0/", True), ("v1", True), ("there.d", True), ("out.png", False), ("x/", True)]
)
def test_a_separator_a_folder_or_no_suffix_mean_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, is_folder: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "in.png", "there.d/x")
    plan = plan_image_tasks("in.png", output)
    assert plan.folder == (output if is_folder else None)
    assert [task.output for task in plan.tasks] == [os.path.join(output, "in.png") if is_folder else output]


def test_existing_outputs_are_skipped_also_in_another_format(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a.webp", "b.webp", "c.webp", "d.webp", "e.png")
    touch(tmp_path / "out", "a.jpg", "b.png", "D.jpg", "e.png")
    skip = ImageFileOptions(skip_existing=True, file_format="jpg")
    plan = plan_image_tasks(tmp_path / "in", tmp_path / "out", skip)
    assert outputs_of(plan, tmp_path / "out") == ["c.jpg", "d.jpg"]
    assert [Path(path).name for path in plan.skipped["exists"]] == ["a.jpg", "b.jpg", "e.jpg"]


def test_the_fallback_of_one_image_may_be_the_output_of_another(tmp_path: Path) -> None:
    """a.png is the output of a.png, and says nothing on whether a.jpg was done."""
    touch(tmp_path / "in", "a.jpg", "a.png")
    touch(tmp_path / "out", "a.png")
    plan = plan_image_tasks(tmp_path / "in", tmp_path / "out", ImageFileOptions(skip_existing=True))
    assert outputs_of(plan, tmp_path / "out") == ["a.jpg"]
    touch(tmp_path / "in", "b.jpg", "b.webp")
    plan = plan_image_tasks(tmp_path / "in", tmp_path / "new")
    assert plan.tasks[0].fallback == str(tmp_path / "new/a.png")
    assert [(task.id, task.is_fallback_taken) for task in plan.tasks] == [
        ("a.jpg", True), ("a.png", False), ("b.jpg", False), ("b.webp", True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (("one/a.png", "two/A.png"), ImageFileOptions()),
        (("one/a.png", "one/a.webp"), ImageFileOptions(file_format="jpg")),
        (("one/a.jpg", "one/a.jpeg"), ImageFileOptions(file_format="png")),
        (("one/\u00e9.png", "two/e\u0301.png"), ImageFileOptions()),
        (("one/sub/a.png", "two/sub/a.png"), ImageFileOptions(recursive=True)),
    ],
)
def test_two_images_with_one_output_are_refused(tmp_path: Path, names: tuple[str, ...], options: ImageFileOptions) -> None:
    touch(tmp_path, *names)
    folders = sorted({tmp_path / name.split("/")[0] for name in names})
    with pytest.raises(UsageError, match="would both be written to"):
        plan_image_tasks(folders, tmp_path / "out", options)


def test_an_image_that_is_not_written_under_its_suffix_may_collide(tmp_path: Path) -> None:
    touch(tmp_path, "a.gif", "a.png")
    with pytest.raises(UsageError, match=r"a\.gif.* and .*a\.png would both"):
        plan_image_tasks([tmp_path / "a.gif", tmp_path / "a.png"], tmp_path / "out")


@pytest.mark.parametrize(
    ("output", "options", "force", "words"),
    [
        ("out.png", ImageFileOptions(suffix="_x"), False, "--suffix is for folders"),
        ("out.png", ImageFileOptions(recursive=True), False, "--recursive is for folders"),
        ("out.png", ImageFileOptions(file_format="jpg"), False, "names one format and --format jpg another"),
        ("out.png", ImageFileOptions(quality=80), False, "PNG is written without loss"),
        ("v1.0", ImageFileOptions(), False, r"For a folder of this name, write v1\.0/"),
        ("out/", ImageFileOptions(quality=80), False, "PNG is written without loss"),
        ("out/", ImageFileOptions(skip_existing=True), True, "give one of them"),
        ("file/", ImageFileOptions(), False, "is a file"),
        ("none/out.png", ImageFileOptions(), False, "does not exist"),
        ("there.png", ImageFileOptions(), False, "give --force to replace or --skip-existing"),
        ("in.png", ImageFileOptions(), True, "is an input"),
        ("./", ImageFileOptions(), True, "is an input"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, options: ImageFileOptions, force: bool, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "in.png", "there.png", "file")
    with pytest.raises(UsageError, match=words):
        plan_image_tasks("in.png", output, options, force=force)


def test_missing_inputs_are_counted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist, and 1 more"):
        plan_image_tasks([tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "out")


def test_a_mask_is_an_input_that_is_not_replaced(tmp_path: Path) -> None:
    touch(tmp_path, "in.png", "mask.png")
    with pytest.raises(UsageError, match="is an input"):
        plan_image_tasks(tmp_path / "in.png", tmp_path / "mask.png", force=True, other_inputs=[tmp_path / "mask.png"])


@pytest.mark.parametrize(
    "fields",
    [
        {"file_format": "gif"},
        {"quality": 0},
        {"quality": 101},
        {"quality": 1.5},
        {"suffix": "../x"},
        {"suffix": "a\\b"},
        {"outscale": 0.0},
        {"outscale": float("nan")},
        {"outscale": float("inf")},
        {"size": (0, 4)},
        {"size": (4, 4), "outscale": 2.0},
    ],
)
def test_options_out_of_range_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        ImageFileOptions(**fields)  # type: ignore[arg-type]


def test_output_sizes() -> None:
    assert ImageFileOptions().compute_output_size(10, 20) is None
    assert ImageFileOptions(outscale=1.5).compute_output_size(11, 20) == (16, 30)
    assert ImageFileOptions(outscale=0.01).compute_output_size(10, 20) == (1, 1)
    assert ImageFileOptions(size=(7, 9)).compute_output_size(10, 20) == (7, 9)


def test_every_folder_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "in", *(f"{folder}/{number}.png" for folder in "abc" for number in range(20)))
    touch(tmp_path / "out", "a/0.jpg")
    listed: list[str] = []
    scandir = os.scandir

    def count(path: str) -> object:
        listed.append(os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", count)
    plan = plan_image_tasks(tmp_path / "in", tmp_path / "out", ImageFileOptions(recursive=True))
    assert len(plan.tasks) == 60
    assert sorted(listed) == sorted(str(tmp_path / name) for name in ("in", "in/a", "in/b", "in/c", "out/a"))


@pytest.mark.slow
def test_planning_takes_at_most_30_microseconds_a_name(tmp_path: Path) -> None:
    """A million names are to take at most 30 s; benchmarks/features/folders.py has them."""
    for folder in range(4):
        (tmp_path / f"in/{folder}").mkdir(parents=True)
        for number in range(5000):
            os.close(os.open(tmp_path / f"in/{folder}/{number:07}.png", os.O_CREAT))
    started = time.perf_counter()
    plan = plan_image_tasks(tmp_path / "in", tmp_path / "out", ImageFileOptions(recursive=True))
    assert len(plan.tasks) == 20_000
    assert time.perf_counter() - started < 20_000 * 30e-6
