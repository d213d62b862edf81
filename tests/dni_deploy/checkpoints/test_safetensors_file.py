"""safetensors files: every header field is checked, and accepted files have the tensors that safetensors reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.errors import CheckpointError, DniError, LimitError
from tests.support import malformed_checkpoints as malformed

E, SAFE = malformed.entry, malformed.safetensors
HEADERS: dict[str, tuple[bytes, type[DniError], str]] = {
    "7 bytes": (b"1234567", CheckpointError, "cut short"),
    "length 2**63": (SAFE(b"{}", length=2**63), CheckpointError, "9,223,372,036,854,775,808"),
    "length 101 MB": (SAFE(b"{}", length=101_000_000), CheckpointError, "101,000,000"),
    "length beyond the file": (SAFE(b"{}", length=3), CheckpointError, "claimed"),
    "length 0": (SAFE(b"", b"{}", length=0), CheckpointError, "claimed"),
    "one byte less": (SAFE({"w": E()}, bytes(7)), CheckpointError, "cut short"),
    "trailing bytes": (SAFE({"w": E()}, bytes(9)), CheckpointError, "after its end"),
    "not JSON": (SAFE(b"{nonsense}"), CheckpointError, "JSON"),
    "an array": (SAFE([1, 2, 3]), CheckpointError, "JSON"),
    "bad UTF-8": (SAFE(b'{"\xff": 1}'), CheckpointError, "JSON"),
    "a NaN": (SAFE(b'{"w": NaN}'), CheckpointError, "JSON"),
    "a name twice": (SAFE(b'{"w": 1, "w": 2}'), CheckpointError, "unique"),
    "very deep": (SAFE(b'{"w":' * 50_000 + b"1" + b"}" * 50_000), CheckpointError, "JSON"),
    "200,000 brackets": (SAFE(b"[" * 200_000 + b"]" * 200_000), LimitError, "more than 20,000"),
    "100,000 tensors": (SAFE({f"w{i}": E(0, 0, (0,)) for i in range(100_000)}), LimitError, "more than 20,000"),
    "an overlap": (SAFE({"a": E(0, 8), "b": E(4, 12)}, bytes(12)), CheckpointError, "overlaps"),
    "a hole": (SAFE({"a": E(0, 8), "b": E(12, 20)}, bytes(20)), CheckpointError, "hole"),
    "offsets that do not fit": (SAFE({"w": E(0, 8, (3,))}, bytes(8)), CheckpointError, "needs 12 bytes"),
    "negative offsets": (SAFE({"w": E(-8, 0)}, bytes(8)), CheckpointError, "whole numbers"),
    "a product that overflows": (SAFE({"w": E(0, 8, (2**33, 2**33))}, bytes(8)), CheckpointError, "needs"),
    "a float shape": (SAFE({"w": E(0, 8, (2.0,))}, bytes(8)), CheckpointError, "whole numbers"),
    "a true shape": (SAFE({"w": E(0, 4, (True,))}, bytes(4)), CheckpointError, "whole numbers"),
    "a shape that is no list": (SAFE({"w": E(0, 8, "2")}, bytes(8)), CheckpointError, "whole numbers"),
    "an unknown type": (SAFE({"w": E(0, 8, (2,), "F99")}, bytes(8)), CheckpointError, "F99"),
    "float8": (SAFE({"w": E(0, 2, (2,), "F8_E4M3")}, bytes(2)), CheckpointError, "F8_E4M3"),
    "a type that is no text": (SAFE({"w": E(0, 8, (2,), [1])}, bytes(8)), CheckpointError, "only float16"),
    "missing fields": (SAFE({"w": {"dtype": "F32"}}), CheckpointError, "fields"),
    "a number for a tensor": (SAFE({"w": 3}), CheckpointError, "fields"),
    "metadata that is no text": (SAFE({"__metadata__": {"a": 1}}), CheckpointError, "metadata"),
    "no tensors": (SAFE({}), CheckpointError, "no tensors"),
    "an empty name": (SAFE({"": E()}, bytes(8)), CheckpointError, "0 characters"),
    "NUL in a name": (SAFE({"a\0": E()}, bytes(8)), CheckpointError, r"\x00"),
    "a path as a name": (SAFE({"../../etc/x": E()}, bytes(8)), CheckpointError, "paths"),
    "a name of 1 MB": (SAFE({"x" * 10**6: E()}, bytes(8)), CheckpointError, "1,000,000"),
    "bidi in a name": (SAFE({"a\u202eb": E()}, bytes(8)), CheckpointError, "control"),
    "a line end in a name": (SAFE({"a\u2028b": E()}, bytes(8)), CheckpointError, "control"),
    "escapes in a bad name": (SAFE({"\x1b[31m\n" + "y" * 10**5: 3}), CheckpointError, "fields"),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_malformed_files_are_refused(name: str, tmp_path: Path) -> None:
    data, kind, expected_text = HEADERS[name]
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(kind) as caught:
        Checkpoint.read(tmp_path / "x.safetensors")
    message = str(caught.value)
    assert type(caught.value) is kind
    assert expected_text in message
    assert len(message) <= 300
    assert message.isprintable()


def test_every_truncation_of_safetensors_is_detected(tmp_path: Path) -> None:
    data = safetensors.numpy.save({"a": np.ones(3, np.float32), "b": np.zeros((2, 2))})
    path = tmp_path / "x.safetensors"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            Checkpoint.read(path)


@pytest.mark.parametrize("seed", [0, 1])
def test_mutated_files_match_safetensors_or_are_refused(seed: int, tmp_path: Path) -> None:
    """Files that we accept are accepted by safetensors with the same values; the reverse need not hold."""
    data = safetensors.numpy.save({"a": np.ones(3, np.float32), "b": np.zeros((2, 2)), "c": np.arange(4)})
    path = tmp_path / "x.safetensors"
    read = 0
    for mutant in malformed.mutations(data, 300, seed):
        path.write_bytes(mutant)
        try:
            tensors = Checkpoint.read(path).tensors
        except DniError:
            continue
        read += 1
        expected = safetensors.numpy.load(mutant)
        assert set(tensors) == set(expected)
        assert all(tensors[name].tobytes() == expected[name].tobytes() for name in tensors)
    assert 0 < read < 300


def test_unaligned_tensors_are_copied(tmp_path: Path) -> None:
    header = {"a": E(0, 1, (1,), "U8"), "b": E(1, 9, (1,), "F64")}
    (tmp_path / "x.safetensors").write_bytes(SAFE(header, b"\x07" + np.array([1.5]).tobytes()))
    checkpoint = Checkpoint.read(tmp_path / "x.safetensors")
    assert checkpoint.tensors["b"].tolist() == [1.5]
    assert all(array.flags.aligned for array in checkpoint.tensors.values())
    assert json.loads(json.dumps(checkpoint.notes)) == []
