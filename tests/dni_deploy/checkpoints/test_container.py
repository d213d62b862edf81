"""Containers: a sharded checkpoint is read through its index, a zipped one from the .zip, and neither reaches outside."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from dni_deploy.checkpoints import container
from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.errors import CheckpointError, LimitError, RefusedError
from tests.support.reading_files import assert_refused

TENSORS = {f"layer{number}.weight": np.full(3, number, np.float32) for number in range(5)}


def write_shards(folder: Path, suffix: str = "safetensors", stem: str = "model") -> Path:
    names = list(TENSORS)
    files = [f"{stem}-0000{number}-of-00002.{suffix}" for number in (1, 2)]
    shards = {name: files[int(place % 2)] for place, name in enumerate(names)}
    for file in files:
        part = {name: TENSORS[name] for name in names if shards[name] == file}
        if suffix == "safetensors":
            save_file(part, folder / file)
        else:
            torch = pytest.importorskip("torch")
            torch.save({name: torch.from_numpy(value) for name, value in part.items()}, folder / file)
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 60}, "weight_map": shards}), encoding="utf-8")
    return index


@pytest.mark.parametrize(("suffix", "stem"), [("safetensors", "model"), ("bin", "pytorch_model")])
def test_a_sharded_checkpoint_is_read_through_its_index(
    suffix: str, stem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = write_shards(tmp_path, suffix, stem)
    checkpoint = Checkpoint.read(index)
    assert list(checkpoint.tensors) == list(TENSORS)
    assert all(np.array_equal(checkpoint.tensors[name], value) for name, value in TENSORS.items())
    monkeypatch.chdir(tmp_path)
    assert Checkpoint.read(index.name).sha256 == checkpoint.sha256
    with index.open("a", encoding="utf-8") as file:
        file.write(" ")
    assert Checkpoint.read(index).sha256 != checkpoint.sha256


def test_one_shard_alone_is_refused_with_the_name_of_the_index(tmp_path: Path) -> None:
    write_shards(tmp_path)
    shard = tmp_path / "model-00002-of-00002.safetensors"
    assert_refused(shard, CheckpointError, "one of 2 shards", "number 2", "model.safetensors.index.json")
    assert_refused(tmp_path, CheckpointError, "give model.safetensors.index.json in it")
    whole = shard.rename(tmp_path / "model-00001-of-00001.safetensors")
    assert Checkpoint.read(whole).tensors


def write_index(folder: Path, value: object) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


@pytest.mark.parametrize("shard", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", "a\\b", "c:x", 3, ""])
def test_an_index_that_reaches_out_of_its_folder_is_refused(shard: object, tmp_path: Path) -> None:
    assert_refused(write_index(tmp_path, {"weight_map": {"w": shard}}), CheckpointError, "no file in its folder")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"modelTopology": {}, "weightsManifest": []}, "a TensorFlow.js model"),
        ({"weight_map": {}}, "a JSON file, without tensors"),
        ({"weight_map": {"w": "absent.safetensors"}}, "does not exist"),
        ('{"a": ', "begins like JSON"),
    ],
)
def test_other_json_is_named(value: object, message: str, tmp_path: Path) -> None:
    assert_refused(write_index(tmp_path, value), CheckpointError, message)


def test_a_tensor_that_is_not_in_its_shard_is_refused(tmp_path: Path) -> None:
    save_file({"a": np.ones(1, np.float32)}, tmp_path / "x.safetensors")
    index = write_index(tmp_path, {"weight_map": {"a": "x.safetensors", "b": "x.safetensors"}})
    assert_refused(index, CheckpointError, "'b' is in x.safetensors, and it is not")


def test_the_size_of_an_index_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "MAX_INDEX_BYTES", 10)
    assert_refused(write_index(tmp_path, {"weight_map": {"w": "x"}}), LimitError, "the limit is 10")


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


RANDOM = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)


@pytest.mark.parametrize("inner", ["net.safetensors", "models/Net.PTH", "x.bin"])
def test_the_checkpoint_in_a_zip_is_read(inner: str, tmp_path: Path) -> None:
    files = {"readme.txt": b"x", inner: save({"w": RANDOM}), f"__MACOSX/._{inner}": b"junk"}
    checkpoint = Checkpoint.read(write_zip(tmp_path / "x.zip", files))
    assert np.array_equal(checkpoint.tensors["w"], RANDOM)
    assert checkpoint.source == str(tmp_path / "x.zip")


def test_a_torch_file_in_a_zip_is_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.from_numpy(RANDOM)}, tmp_path / "net.pth")
    path = write_zip(tmp_path / "net.pth.zip", {"net.pth": (tmp_path / "net.pth").read_bytes()})
    assert np.array_equal(Checkpoint.read(path).tensors["w"], RANDOM)


def test_a_zip_is_refused_where_it_is_unclear_or_a_bomb(tmp_path: Path) -> None:
    content = save({"w": RANDOM})
    path = tmp_path / "x.zip"
    assert_refused(write_zip(path, {"a.pth": content, "b.pth": content}), CheckpointError, "2 checkpoints, 'a.pth', 'b.pth'")
    assert_refused(write_zip(path, {"a.pth": bytes(10_000_000)}), RefusedError, "unpacks to 10,000,000 bytes")
    assert_refused(write_zip(path, {"a.txt": content}), CheckpointError, "no checkpoint, but 'a.txt'")
    assert_refused(write_zip(path, {"a.pth": b"GGUF" + bytes(100)}), CheckpointError, "x.zip (a.pth)", "GGUF")
    whole = write_zip(path, {"a.pth": content}).read_bytes()
    broken = bytearray(whole)
    broken[60] ^= 255
    path.write_bytes(broken)
    assert_refused(path, CheckpointError, "damaged")
    path.write_bytes(bytes(whole).replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00"))
    assert_refused(path, RefusedError, "encrypted")
