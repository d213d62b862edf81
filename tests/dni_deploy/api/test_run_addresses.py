"""run with images at addresses: the same pixels, one listing a folder, whole outputs, and a row for what fails."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dni_deploy.api.run import run
from dni_deploy.errors import InputError, PartialResultError, UnavailableError, UsageError
from dni_deploy.imaging.image_tasks import ImageFileOptions, plan_image_tasks
from dni_deploy.jobs.shard import JobOptions
from tests.support.frame_session import Dimmer, run_over
from tests.support.object_stores import CountingStore, store

__all__ = ["store"]


@pytest.fixture(autouse=True)
def dimmer(monkeypatch: pytest.MonkeyPatch) -> Dimmer:
    """Member a keeps the image, member b makes it black."""
    engine = Dimmer((1.0, 0.0))
    run_over(monkeypatch, engine)
    return engine


def make_png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def fill(store: CountingStore, folder: Path) -> None:
    """Puts the same five images into a store and a folder, and what is none."""
    for seed, name in enumerate(["1.png", "2.png", "a/3.png", "a/b/4.png", "c/5.PNG", ".hidden.png", "notes.txt", ".d/6.png"]):
        data = b"text" if name == "notes.txt" else make_png(seed)
        store.put(f"memory://in/pictures/{name}", data)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def read_tree(store: CountingStore, address: str) -> dict[str, bytes]:
    root = address.removeprefix("memory:/")
    return {path.removeprefix(f"{root}/"): store.get(path) for path in store.list_all() if path.startswith(f"{root}/")}


def test_a_tree_at_an_address_gives_the_same_files(store: CountingStore, tmp_path: Path) -> None:
    fill(store, tmp_path / "in")
    options = ImageFileOptions(recursive=True)
    local = run("x.dni", tmp_path / "in", tmp_path / "out", 0.5, file_options=options)
    remote = run("x.dni", "memory://in/pictures/", "memory://out/done", 0.5, file_options=options)
    run("x.dni", "memory://in/pictures", tmp_path / "down", 0.5, file_options=options)
    run("x.dni", tmp_path / "in", "memory://up", 0.5, file_options=options)
    expected = {path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in (tmp_path / "out").rglob("*.???")}
    assert len(expected) == len(local.images) == 5
    assert read_tree(store, "memory://out/done") == read_tree(store, "memory://up") == expected
    assert {p.relative_to(tmp_path / "down").as_posix(): p.read_bytes() for p in (tmp_path / "down").rglob("*.???")} == expected
    assert [(row.source, row.output) for row in remote.images][-1] == (
        "memory://in/pictures/c/5.PNG",
        "memory://out/done/c/5.PNG",
    )
    assert remote.skipped == {"not_image": ("memory://in/pictures/notes.txt",)}


def test_file_addresses_are_paths(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    for name in ("w.png", "x.png"):
        (folder / name).write_bytes(make_png(1))
    report = run("x.dni", folder.as_uri(), f"{(tmp_path / 'out').as_uri()}/", 0.5)
    assert [row.output for row in report.images] == [str(tmp_path / "out" / name) for name in ("w.png", "x.png")]
    assert run("x.dni", folder.as_uri(), tmp_path / "out", 0.5, job=JobOptions(resume=True)).skipped["done"]
    run("x.dni", (folder / "x.png").as_uri(), (tmp_path / "y.png").as_uri(), 0.5)
    with pytest.raises(UsageError, match=r"y\.png exists"):
        run("x.dni", (folder / "x.png").as_uri(), (tmp_path / "y.png").as_uri(), 0.5)


def test_one_image_and_the_names_of_its_errors(store: CountingStore) -> None:
    store.put("memory://in/x.png", make_png(1))
    store.put("memory://in/bad.png", make_png(1)[:-40])
    run("x.dni", "memory://in/x.png", "memory://out/y.bmp", 1)
    assert list(read_tree(store, "memory://out")) == ["y.bmp"]
    with pytest.raises(UsageError, match=r"^memory://out/y.bmp exists; give --force"):
        run("x.dni", "memory://in/x.png", "memory://out/y.bmp", 1)
    with pytest.raises(InputError, match=r"^The image memory://in/bad.png is damaged"):
        run("x.dni", "memory://in/bad.png", "memory://out/z.png", 1)
    with pytest.raises(InputError, match=r"^memory://in/none.png does not exist. Nothing was written.$"):
        run("x.dni", "memory://in/none.png", "memory://out/z.png", 1)
    with pytest.raises(UsageError, match=r"^memory://in/x.png is an input, too"):
        run("x.dni", "memory://in/x.png", "memory://in/", 1)
    with pytest.raises(UsageError, match=r"^memory://in/x.png is a file; several images need a folder"):
        run("x.dni", ["memory://in/x.png", "memory://in/bad.png"], "memory://in/x.png", 1)


def test_a_failing_put_is_a_row_and_leaves_nothing(store: CountingStore) -> None:
    for name in ("1.png", "2.png", "3.png"):
        store.put(f"memory://in/{name}", make_png(1))
    put = store.files.pipe_file

    def fail(path: str, data: bytes, mode: str) -> None:
        if path.endswith("2.png"):
            raise OSError("503 slow down")
        put(path, data, mode=mode)

    store.files.pipe_file = fail
    try:
        with pytest.raises(PartialResultError) as failed:
            run("x.dni", "memory://in", "memory://out/", 0.5)
    finally:
        del store.files.pipe_file
    (failure,) = failed.value.report.failed
    assert (failure.source, str(failure.error)) == (
        "memory://in/2.png",
        "memory://out/2.png cannot be read or written (OSError: 503 slow down).",
    )
    assert store.calls["pipe_file"] == 2 + 4
    assert list(read_tree(store, "memory://out")) == ["1.png", "3.png"]
    report = run("x.dni", "memory://in", "memory://out/", 0.5, file_options=ImageFileOptions(skip_existing=True))
    assert [row.output for row in report.images] == ["memory://out/2.png"]


def test_shards_share_a_store_without_a_folder_of_rows(store: CountingStore) -> None:
    for seed in range(7):
        store.put(f"memory://in/{seed}.png", make_png(seed))
    skip = ImageFileOptions(skip_existing=True)
    for shard, outputs in (("2/3", ["1", "4"]), ("1/3", ["0", "3", "6"]), ("3/3", ["2", "5"])):
        report = run("x.dni", "memory://in", "memory://out/", 0.5, file_options=skip, job=JobOptions(resume=False, shard=shard))
        assert [row.output for row in report.images] == [f"memory://out/{name}.png" for name in outputs]
    assert list(read_tree(store, "memory://out")) == [f"{seed}.png" for seed in range(7)]
    store.files.rm("memory://out/4.png")
    again = run("x.dni", "memory://in", "memory://out/", 0.5, file_options=skip, job=JobOptions(resume=False, shard="2/3"))
    assert [row.output for row in again.images] == ["memory://out/4.png"]
    assert again.skipped == {"exists": ("memory://out/1.png",)}
    with pytest.raises(UsageError, match=r"^memory://out/1.png exists, and 1 more; give --force to replace or --skip-existing"):
        run("x.dni", "memory://in", "memory://out/", 0.5, job=JobOptions(resume=False, shard="2/3"))
    for job in (JobOptions(resume=True), JobOptions(resume=False, shard="join")):
        with pytest.raises(
            UsageError, match=r"goes by the rows of a job .*, and memory://out/ is an address: --skip-existing goes on"
        ):
            run("x.dni", "memory://in", "memory://out/", 0.5, job=job)


def test_a_job_with_sources_at_an_address_does_what_was_changed_anew(store: CountingStore, tmp_path: Path) -> None:
    for seed in range(4):
        store.put(f"memory://in/{seed}.png", make_png(seed))
    run("x.dni", "memory://in", tmp_path / "out", 0.5)
    store.put("memory://in/2.png", make_png(9))
    store.calls.clear()
    report = run("x.dni", "memory://in", tmp_path / "out", 0.5, job=JobOptions(resume=True))
    assert [Path(row.output).name for row in report.images] == ["2.png"]
    assert len(report.skipped["done"]) == 3
    assert (store.calls["ls"], store.calls["cat_file"], store.calls["info"]) == (3, 1, 1)


def test_a_large_folder_is_listed_and_not_asked_for_each_object(store: CountingStore) -> None:
    for folder in range(10):
        for number in range(200):
            store.put(f"memory://in/{folder}/{number}.jpg", b"")
            store.put(f"memory://out/{folder}/{number}.png", b"")
    options = ImageFileOptions(recursive=True, skip_existing=True)
    plan = plan_image_tasks("memory://in", "memory://out", options)
    assert len(plan.skipped["exists"]) == 2000  # as .png, which their own format could not hold
    assert store.calls - Counter(_strip_protocol=10**6) == Counter(ls=11 + 10, info=2)


def test_a_store_that_cannot_be_used_ends_the_run_before_it_begins(store: CountingStore) -> None:
    store.put("memory://in/x.png", make_png(1))
    store.failures["ls"] = [PermissionError("Access Denied")]
    with pytest.raises(UnavailableError, match=r"memory://in cannot be reached \(PermissionError: Access Denied\)"):
        run("x.dni", "memory://in", "memory://out", 1)


def test_names_that_leave_the_folder_are_left_out(store: CountingStore, tmp_path: Path) -> None:
    rows = [
        {"name": f"/in/{name}", "type": "directory" if name == ".." else "file", "size": 1}
        for name in ("..", "a\0.png", "ok.png", ".png")
    ]
    store.files.ls = lambda path, detail: rows
    store.files.info = lambda path: {"name": path, "type": "directory"}
    try:
        plan = plan_image_tasks("memory://in", tmp_path / "out", ImageFileOptions(recursive=True))
    finally:
        del store.files.ls, store.files.info
    assert [task.output for task in plan.tasks] == [str(tmp_path / "out" / "ok.png")]
