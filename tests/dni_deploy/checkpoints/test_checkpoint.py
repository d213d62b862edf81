"""Checkpoints: tensors equal those that torch and safetensors read, under canonical names, or there is a one-line error."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch

from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.checkpoints.selection import WRAPPER_KEYS
from dni_deploy.errors import CheckpointError, RefusedError

torch = pytest.importorskip("torch")


def state() -> OrderedDict[str, Any]:
    """Every kind of tensor that a checkpoint may hold."""
    random = torch.Generator().manual_seed(0)
    tensors = OrderedDict(
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.PReLU(4)).state_dict()
    )
    tensors["0.weight"] = torch.randn(4, 3, 3, 3, generator=random)
    tensors["0.bias"] = torch.randn(4, generator=random)
    tensors["transposed"] = torch.randn(3, 4, generator=random).t()
    tensors["sliced"] = torch.randn(6, 8, generator=random)[1::2, 3:5]
    tensors["double"] = torch.randn(2, 2, generator=random, dtype=torch.float64)
    tensors["half"] = torch.randn(5, generator=random).half()
    tensors["bfloat"] = torch.randn(3, 3, generator=random).bfloat16()
    tensors["bfloat scalar"] = torch.tensor(1.5).bfloat16()
    tensors["bool"] = torch.tensor([True, False, True])
    tensors["scalar"] = torch.tensor(3.25)
    tensors["empty"] = torch.zeros(0, 3)
    for kind in (torch.int8, torch.uint8, torch.int16, torch.int32):
        tensors[str(kind).removeprefix("torch.")] = torch.tensor([1, 2, 100], dtype=kind)
    shared = torch.randn(10, generator=random)
    tensors["tied"], tensors["tied again"], tensors["tied part"] = shared, shared, shared[3:7]
    return tensors


def assert_same_tensors(expected: Any, checkpoint: Checkpoint) -> None:
    assert set(checkpoint.tensors) == set(expected)
    for name, tensor in expected.items():
        array = checkpoint.tensors[name]
        expected_array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        assert (array.dtype, array.shape) == (expected_array.dtype, expected_array.shape), name
        assert array.tobytes() == np.ascontiguousarray(expected_array).tobytes(), name
        assert array.flags.c_contiguous
        assert not array.flags.writeable


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_have_the_tensors_that_torch_loads(zipped: bool, protocol: int, tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "x.pth", _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    checkpoint = Checkpoint.read(tmp_path / "x.pth")
    assert_same_tensors(state(), checkpoint)
    assert list(checkpoint.tensors) == list(state())
    assert (checkpoint.wrapper, checkpoint.source) == (None, str(tmp_path / "x.pth"))


def test_unsigned_integers_of_newer_torch(tmp_path: Path) -> None:
    """These have no storage class of their own and are stored differently."""
    tensors = {"a": torch.tensor([1, 60_000], dtype=torch.uint16), "b": torch.tensor([2**63], dtype=torch.uint64)}
    torch.save(tensors, tmp_path / "x.pth")
    assert_same_tensors(tensors, Checkpoint.read(tmp_path / "x.pth"))


def test_parameters_are_read_as_tensors(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.tag = "kept with the parameter, of no interest here"
    torch.save({"a": parameter, "b": torch.nn.Parameter(torch.zeros(2))}, tmp_path / "x.pth")
    assert_same_tensors({"a": torch.ones(3), "b": torch.zeros(2)}, Checkpoint.read(tmp_path / "x.pth"))


def test_safetensors_files_are_read_with_any_suffix(tmp_path: Path) -> None:
    tensors = {name: tensor.clone().contiguous() for name, tensor in state().items()}
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors", {"format": "pt"})
    assert_same_tensors(tensors, Checkpoint.read(tmp_path / "x.safetensors"))
    (tmp_path / "x.bin").write_bytes((tmp_path / "x.safetensors").read_bytes())
    assert_same_tensors(tensors, Checkpoint.read(tmp_path / "x.bin"))


def test_every_bfloat16_value_is_converted_exactly(tmp_path: Path) -> None:
    """All 65,536 patterns become the float32 with the same upper half, NaN payloads and signs of zero included."""
    patterns = np.arange(1 << 16, dtype=np.uint32)
    numbers = torch.from_numpy(patterns.astype(np.uint16).view(np.int16)).view(torch.bfloat16)
    torch.save({"x": numbers}, tmp_path / "x.pth")
    safetensors.torch.save_file({"x": numbers}, tmp_path / "x.safetensors")
    for path in tmp_path.iterdir():
        assert np.array_equal(Checkpoint.read(path).tensors["x"].view(np.uint32), patterns << 16)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_reading_needs_no_torch(suffix: str, tmp_path: Path) -> None:
    torch.save({"params": state()}, tmp_path / "x.pth")
    safetensors.torch.save_file({"w": torch.ones(2).bfloat16()}, tmp_path / "x.safetensors")
    code = (
        "import sys; sys.modules['torch'] = None\nfrom dni_deploy.checkpoints.checkpoint import Checkpoint\n"
        "print(len(Checkpoint.read(sys.argv[1]).tensors))"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / f"x.{suffix}")], capture_output=True, text=True, check=True
    )
    assert int(child.stdout) == {"pth": len(state()), "safetensors": 1}[suffix]


def test_a_state_dict_in_memory_is_copied() -> None:
    tensors = state()
    checkpoint = Checkpoint.from_state_dict(tensors)
    assert_same_tensors(tensors, checkpoint)
    assert checkpoint.source == "memory"
    tensors["double"].zero_()
    assert checkpoint.tensors["double"].any()  # the data were copied
    assert Checkpoint.from_state_dict(state()).sha256 == checkpoint.sha256 != Checkpoint.from_state_dict(tensors).sha256
    with pytest.raises(ValueError, match="read-only"):
        checkpoint.tensors["double"][0] = 1
    swapped = Checkpoint.from_state_dict({"x": np.arange(3, dtype=">f4")}).tensors["x"]
    assert swapped.dtype == np.dtype("f4")
    assert swapped.dtype.isnative
    assert swapped.tolist() == [0, 1, 2]


ONE = {"w": np.ones(2, np.float32)}
OTHER = {"w": np.zeros(2, np.float32)}


@pytest.mark.parametrize(
    ("value", "key", "wrapper"),
    [
        (ONE, None, None),
        *(({name: ONE, "epoch": 3, "optimizer": {"state": {0: {"step": 1}}}}, None, name) for name in WRAPPER_KEYS),
        ({"params": OTHER, "params_ema": ONE}, None, "params_ema"),
        ({"model": OTHER, "params": ONE}, None, "params"),
        ({"params": ONE, "params_ema": OTHER}, "params", "params"),
        ({"generator": {"params_ema": ONE}, "discriminator": OTHER}, None, "generator.params_ema"),
        ({"generator": {"params_ema": OTHER, "params": ONE}}, "generator.params", "generator.params"),
        ({"netG_A": ONE, "lr": 0.1}, None, "netG_A"),
        ({"netG_A": OTHER, "netG_B": ONE}, "netG_B", "netG_B"),
        ({"w": ONE["w"], "epoch": 3}, None, None),
    ],
)
def test_wrappers_are_removed_alike_in_memory_and_from_files(
    value: Any, key: str | None, wrapper: str | None, tmp_path: Path
) -> None:
    """The same rule applies in memory and to files."""
    checkpoint = Checkpoint.from_state_dict(value, key=key)
    assert checkpoint.wrapper == wrapper
    assert checkpoint.tensors["w"].tolist() == [1, 1]

    def tensors(item: Any) -> Any:
        if isinstance(item, dict):
            return {name: tensors(inner) for name, inner in item.items()}
        return torch.from_numpy(item) if isinstance(item, np.ndarray) else item

    torch.save(tensors(value), tmp_path / "x.ckpt")
    read = Checkpoint.read(tmp_path / "x.ckpt", key=key)
    assert (read.wrapper, read.notes) == (wrapper, checkpoint.notes)
    assert read.tensors["w"].tolist() == [1, 1]


def test_a_note_names_the_chosen_wrapper() -> None:
    assert "'params'" in Checkpoint.from_state_dict({"params": ONE, "params_ema": ONE}).notes[0]
    assert "epoch" in Checkpoint.from_state_dict({**ONE, "epoch": 3}).notes[0]
    assert "'module.'" in Checkpoint.from_state_dict({"module.w": ONE["w"]}).notes[0]


@pytest.mark.parametrize(
    ("value", "key", "message"),
    [
        ({"a": ONE, "b": ONE}, None, "it has 'a', 'b'. Choose one by --key ENTRY"),
        ({"params": ONE}, "params_ema", "it has 'params'"),
        ({}, None, "no tensors"),
        ({"a": {"b": {"c": {"d": {"e": ONE}}}}}, None, "no tensors"),
        ([1], None, "instead of tensors under names"),
        ({"w": np.array(["text"])}, None, "only float16"),
        ({"w": np.ones(2, np.complex64)}, None, "complex64"),
    ],
)
def test_ambiguous_wrappers_are_refused(value: Any, key: str | None, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.from_state_dict(value, key=key)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("names", "canonical"),
    [
        (["module.a", "module.b"], ["a", "b"]),
        (["module.a", "b"], ["module.a", "b"]),  # only where every name has it
        (["module.module.a"], ["a"]),
        (["_orig_mod.module.a", "_orig_mod.module.b"], ["a", "b"]),
        (["net._orig_mod.a"], ["net.a"]),
    ],
)
def test_prefixes_are_removed(names: list[str], canonical: list[str]) -> None:
    checkpoint = Checkpoint.from_state_dict({name: np.full(1, index, np.float32) for index, name in enumerate(names)})
    assert list(checkpoint.tensors) == canonical
    assert [int(array[0]) for array in checkpoint.tensors.values()] == list(range(len(names)))


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_tensors_that_cannot_be_blended_are_refused() -> None:
    for tensor, kind in [
        (torch.eye(2).to_sparse(), RefusedError),
        (torch.eye(2).to_sparse_csr(), RefusedError),
        (torch.ones(2, device="meta"), CheckpointError),
        (torch.ones(2, dtype=torch.complex64), CheckpointError),
        (torch.ones(2).to(torch.float8_e5m2), CheckpointError),
    ]:
        with pytest.raises(kind, match="'w'"):
            Checkpoint.from_state_dict({"w": tensor})


def test_nonfinite_numbers_are_counted() -> None:
    checkpoint = Checkpoint.from_state_dict({"a": np.array([1, np.nan, np.inf]), "b": np.ones(2), "c": np.array([1, 2])})
    assert checkpoint.count_nonfinite() == [("a", 2)]
    assert checkpoint.float_keys == ("a", "b")


def test_views_that_would_exhaust_memory_are_refused(tmp_path: Path) -> None:
    """Each view is valid, but a thousand transposed views of one storage would be copied a thousand times."""
    shared = torch.zeros(200, 200)
    torch.save({f"w{i}": shared.t() for i in range(1000)}, tmp_path / "x.pth")
    with pytest.raises(RefusedError, match="declares tensors of 160,000,000"):
        Checkpoint.read(tmp_path / "x.pth")
