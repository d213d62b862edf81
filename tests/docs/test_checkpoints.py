"""docs/checkpoints.md: every row of its table is a file that is made here, and read or refused as the row says."""

from __future__ import annotations

import argparse
import gzip
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.errors import DniError
from exporters.architectures.compact import SRVGGNetCompact
from exporters.architectures.recognize import make_recognizers

PAGE = Path(__file__).parents[2] / "docs" / "checkpoints.md"
torch.manual_seed(0)
NET = SRVGGNetCompact(3, 8, 2, 2).eval().requires_grad_(False)
STATE = NET.state_dict()
OTHER = {key: torch.zeros_like(value) for key, value in STATE.items()}
DISCRIMINATOR = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 1, 3)).state_dict()
OPTIMIZER = torch.optim.Adam(SRVGGNetCompact(3, 8, 2, 2).parameters()).state_dict()


def save(value: Any, name: str = "x.pth", **options: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        torch.save(value, folder / name, **options)
        return folder / name

    return write


def put(content: bytes, name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def save_safetensors(folder: Path) -> Path:
    safetensors.torch.save_file(STATE, folder / "x.safetensors")
    return folder / "x.safetensors"


def save_shards(folder: Path) -> Path:
    names = list(STATE)
    shards = {name: f"model-0000{place % 2 + 1}-of-00002.safetensors" for place, name in enumerate(names)}
    for shard in set(shards.values()):
        safetensors.torch.save_file({name: STATE[name] for name in names if shards[name] == shard}, folder / shard)
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": shards}), encoding="utf-8")
    return path


def save_zip(*names: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        torch.save(STATE, folder / "net.pth")
        with zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                archive.write(folder / "net.pth", name)
        return folder / "x.zip"

    return write


def save_script(folder: Path) -> Path:
    torch.jit.trace(NET, torch.rand(1, 3, 8, 8)).save(folder / "x.pt")
    return folder / "x.pt"


def save_program(folder: Path) -> Path:
    torch.export.save(torch.export.export(NET, (torch.rand(1, 3, 8, 8),)), folder / "x.pt2")
    return folder / "x.pt2"


def save_onnx(folder: Path) -> Path:
    torch.onnx.export(NET, (torch.rand(1, 3, 8, 8),), folder / "x.onnx", dynamo=False)
    return folder / "x.onnx"


def save_npz(folder: Path) -> Path:
    np.savez(folder / "x.npz", **{key: value.numpy() for key, value in STATE.items()})
    return folder / "x.npz"


def save_distributed(folder: Path) -> Path:
    distributed = pytest.importorskip("torch.distributed.checkpoint")
    distributed.save(dict(STATE), checkpoint_id=folder / "dcp")
    return folder / "dcp"


LIGHTNING = {
    "epoch": 1,
    "state_dict": {f"model.{key}": value for key, value in STATE.items()},
    "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(1.0)}},
    "optimizer_states": [OPTIMIZER],
    "hyper_parameters": argparse.Namespace(lr=1e-4, path=Path("x")),
}
FORMATS: dict[str, Callable[[Path], Path]] = {
    ".pth, .pt, .ckpt, .bin of torch.save": save(STATE, "pytorch_model.bin"),
    ".pth of torch before 1.6": save(STATE, _use_new_zipfile_serialization=False),
    ".safetensors": save_safetensors,
    "float16, bfloat16 or float64 in any of them": save({key: value.bfloat16() for key, value in STATE.items()}),
    "Lightning .ckpt: `state_dict`, prefix `model.`, `hyper_parameters` as a Namespace": save(LIGHTNING, "x.ckpt"),
    "torch.optim.swa_utils.AveragedModel": save(torch.optim.swa_utils.AveragedModel(NET).state_dict()),
    "`{generator, discriminator, optimizer}`": save(
        {"discriminator": DISCRIMINATOR, "generator": STATE, "optimizer": OPTIMIZER}
    ),
    "`{model, model_ema}`": save({"model": OTHER, "model_ema": STATE}),
    "`{G_A, G_B}`": save({"G_A": STATE, "G_B": OTHER}),
    "sharded .safetensors or .bin: `*.index.json`": save_shards,
    "one shard of it": lambda folder: save_shards(folder).parent / "model-00001-of-00002.safetensors",
    ".pth in a .zip": save_zip("net.pth"),
    ".zip with several": save_zip("a.pth", "b.pth"),
    "TorchScript .pt": save_script,
    "torch.export .pt2": save_program,
    "whole pickled module, torch.save(net)": save(NET),
    "state of a training run, without weights": save({"iter": 5, "optimizers": [OPTIMIZER], "schedulers": []}, "5.state"),
    "list of tensors": save(list(STATE.values())),
    "float8": save({key: value.to(torch.float8_e4m3fn) for key, value in STATE.items()}),
    ".onnx": save_onnx,
    "ncnn .param": put(b"7767517\n2 2\nInput data 0 1 data\n", "x.param"),
    "ncnn .bin": put((0x01306B47).to_bytes(4, "little") + bytes(64), "x.bin"),
    "TensorFlow.js model.json": put(b'{"modelTopology": {}, "weightsManifest": []}', "model.json"),
    "Keras .h5": put(b"\x89HDF\r\n\x1a\n" + bytes(64), "x.h5"),
    ".npz": save_npz,
    ".gz": lambda folder: put(gzip.compress(b"x"), "x.pth.gz")(folder),
    "folder of torch.distributed.checkpoint": save_distributed,
}
ROWS = dict(re.findall(r"^\| (.+?) \| ((?:read|refused).*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))


def test_every_row_is_made_and_everything_that_is_made_has_a_row() -> None:
    assert list(ROWS) == list(FORMATS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORMATS)
def test_a_file_is_read_or_refused_as_its_row_says(name: str, tmp_path: Path) -> None:
    path = FORMATS[name](tmp_path)
    result = ROWS[name]
    if result.startswith("refused"):
        with pytest.raises(DniError) as caught:
            Checkpoint.read(path, recognizers=make_recognizers("auto"))
        assert re.findall(r'"(.+)"', result)[0] in str(caught.value)
        assert "damaged" not in str(caught.value)
        return
    tensors = Checkpoint.read(path, recognizers=make_recognizers("auto")).tensors
    assert set(tensors) == set(STATE)
    for key, value in STATE.items():
        exact = value.bfloat16().float() if "bfloat16" in name else value
        assert np.array_equal(tensors[key], exact.numpy())
