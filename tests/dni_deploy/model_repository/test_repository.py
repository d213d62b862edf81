"""A model in a repository: which files it has, that each version appears whole, and what is never replaced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import BundleError, UsageError
from dni_deploy.model_repository import repository
from dni_deploy.model_repository.model_config import ModelOptions
from dni_deploy.model_repository.repository import make_perf_requests, write_model
from tests.support import served_bundle

OPTIONS = ModelOptions()
MODEL_FILES = {"config.pbtxt", "probe.py", "probe.json", "perf_analyzer.json"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return served_bundle.write(tmp_path_factory.mktemp("bundle") / "sr.dni")


def list_files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_model_has_its_files_and_a_copy_of_the_bundle(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.path / "note.txt").write_text("no part of the bundle")
    written = write_model(tmp_path / "models", "sr", bundle, OPTIONS, force=False)
    assert (written.folder, written.version, written.older_versions) == (tmp_path / "models/sr", 1, ())
    copied = {f"1/bundle.dni/{stored.file}" for stored in bundle.manifest.files}
    assert list_files(written.folder) == {*MODEL_FILES, "1/model.py", "1/bundle.dni/manifest.json", *copied}
    assert Bundle.open(written.folder / "1/bundle.dni").digest == bundle.digest
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["sr"]
    for name in ("probe.py", "1/model.py"):
        own = Path(repository.__file__).with_name(Path(name).name)
        assert (written.folder / name).read_bytes() == own.read_bytes()


def test_other_models_of_a_repository_stay(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "other" / "1").mkdir(parents=True)
    write_model(tmp_path, "sr", bundle, OPTIONS, force=False)
    write_model(tmp_path, "sr2", bundle, OPTIONS, force=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "sr", "sr2"]


def test_a_model_that_exists_gets_a_next_version_by_force_alone(bundle: Bundle, tmp_path: Path) -> None:
    write_model(tmp_path, "sr", bundle, OPTIONS, force=False)
    before = {path: path.read_bytes() for path in (tmp_path / "sr").rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"exists; --force adds the bundle as version 2 of it"):
        write_model(tmp_path, "sr", bundle, OPTIONS, force=False)
    assert {path: path.read_bytes() for path in (tmp_path / "sr").rglob("*") if path.is_file()} == before
    written = write_model(tmp_path, "sr", bundle, ModelOptions(instances=2), force=True)
    assert (written.version, written.older_versions) == (2, (1,))
    assert "count: 2" in (tmp_path / "sr/config.pbtxt").read_text()
    assert all(path.read_bytes() == data for path, data in before.items() if path.parent != tmp_path / "sr")
    assert Bundle.open(tmp_path / "sr/2/bundle.dni").digest == bundle.digest


def test_the_next_version_is_behind_the_highest(bundle: Bundle, tmp_path: Path) -> None:
    write_model(tmp_path, "sr", bundle, OPTIONS, force=False)
    (tmp_path / "sr/1").rename(tmp_path / "sr/7")
    (tmp_path / "sr/08").mkdir()
    assert write_model(tmp_path, "sr", bundle, OPTIONS, force=True).version == 8
    for version in ("7", "8", "08"):
        (tmp_path / "sr" / version).rename(tmp_path / version)
    assert write_model(tmp_path, "sr", bundle, OPTIONS, force=True).version == 1


@pytest.mark.parametrize("what", ["file", "folder", "model", "link"])
def test_what_is_no_model_of_ours_is_never_added_to(bundle: Bundle, tmp_path: Path, what: str) -> None:
    target = tmp_path / "sr"
    if what == "file":
        target.write_text("mine")
    elif what == "link":
        target.symlink_to(write_model(tmp_path, "real", bundle, OPTIONS, force=False).folder)
    else:
        target.mkdir()
        if what == "model":
            (target / "config.pbtxt").write_text('name: "sr"\n')
    before = list_files(tmp_path)
    with pytest.raises(UsageError, match="is not a model that `dni-deploy triton` wrote, and is left as it is"):
        write_model(tmp_path, "sr", bundle, OPTIONS, force=True)
    assert list_files(tmp_path) == before


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-sr", "sr model", 'sr"', "sr\n", "é", "x" * 101])
def test_names_that_a_model_cannot_have(bundle: Bundle, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is no name for a model"):
        write_model(tmp_path, name, bundle, OPTIONS, force=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("version", [1, 2])
def test_a_failure_leaves_nothing(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    models = tmp_path / "models"
    if version == 2:
        write_model(models, "sr", bundle, OPTIONS, force=False)
    before = list_files(tmp_path)

    def read_then_fail(bundle: Bundle) -> object:
        yield "graph.onnx", b"half of it"
        raise BundleError("It was changed.")

    monkeypatch.setattr(repository, "read_bundle_files", read_then_fail)
    with pytest.raises(BundleError, match="It was changed"):
        write_model(models, "sr", bundle, OPTIONS, force=True)
    assert list_files(tmp_path) == before
    assert models.exists() == (version == 2)


def test_a_bundle_that_is_replaced_while_it_is_copied(tmp_path: Path) -> None:
    bundle = served_bundle.write(tmp_path / "sr.dni")
    manifest = bundle.path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes() + b"\n")
    with pytest.raises(BundleError, match="was replaced while it was copied"):
        write_model(tmp_path / "models", "sr", bundle, OPTIONS, force=False)
    assert not (tmp_path / "models").exists()


def test_a_repository_that_cannot_be_made(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file is no folder\. Nothing was written"):
        write_model(tmp_path / "file", "sr", bundle, OPTIONS, force=False)
    with pytest.raises(UsageError, match="cannot be made: the folder around it does not exist"):
        write_model(tmp_path / "absent/models", "sr", bundle, OPTIONS, force=False)


@pytest.mark.parametrize(("members", "first", "last"), [(2, [1.0], [0.0]), (3, [1.0, 0.0, 0.0], [0.0, 0.0, 1.0])])
@pytest.mark.parametrize("raw", [False, True])
def test_requests_for_the_load_generator_go_from_member_to_member(
    tmp_path: Path, members: int, first: list[float], last: list[float], raw: bool
) -> None:
    bundle = served_bundle.write(tmp_path / "sr.dni", members, multiple=5)
    rows = json.loads(json.dumps(make_perf_requests(bundle, ModelOptions(raw=raw))))["data"]
    assert (rows[0]["alpha"]["content"], rows[-1]["alpha"]["content"]) == (first, last)
    assert all(sum(row["alpha"]["content"]) == pytest.approx(1) for row in rows if members == 3)
    image = rows[0]["input" if raw else "image"]
    assert image["shape"] == ([1, 3, 25, 35] if raw else [25, 35, 3])
    assert len(image["content"]) == 25 * 35 * 3
    assert max(image["content"]) <= (1 if raw else 255)
