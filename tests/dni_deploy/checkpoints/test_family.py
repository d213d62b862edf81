"""Families: every kind of difference is reported, and allowed differences are accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.checkpoints.family import Family, find_differences
from dni_deploy.errors import CheckpointError, InputError, LimitError, MismatchError, UsageError


def state(seed: int = 0, **changed: Any) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    tensors: dict[str, Any] = {
        "conv.weight": random.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "conv.bias": random.standard_normal(4).astype(np.float32),
        "bn.num_batches_tracked": np.array(seed),
        "index": np.arange(6).reshape(2, 3),
    }
    tensors.update(changed)
    return {name: value for name, value in tensors.items() if value is not None}


def test_matching_members_form_a_family(tmp_path: Path) -> None:
    save_file(state(1), tmp_path / "b.safetensors")
    family = Family.from_checkpoints(
        {"a": state(0), "b": tmp_path / "b.safetensors", "c": Checkpoint.from_state_dict(state(2))}
    )
    assert family.names == ("a", "b", "c")
    assert family.float_keys == ("conv.weight", "conv.bias")
    assert family.shapes == {"conv.weight": (4, 3, 3, 3), "conv.bias": (4,), "bn.num_batches_tracked": (), "index": (2, 3)}
    assert family["b"].checkpoint.source == str(tmp_path / "b.safetensors")
    assert family.notes == ()
    with pytest.raises(UsageError, match="'d'"):
        family["d"]


def test_num_batches_tracked_may_differ_or_be_missing() -> None:
    Family.from_checkpoints({"a": state(0), "b": state(5)})
    Family.from_checkpoints({"a": state(0), "b": state(1, **{"bn.num_batches_tracked": None})})
    Family.from_checkpoints({"a": state(0, **{"bn.num_batches_tracked": None}), "b": state(1)})


DIFFERENCES: dict[str, tuple[dict[str, Any], str, str]] = {
    "missing": ({"conv.bias": None}, "missing", "1 of 3 tensors differ (1 missing), first 'conv.bias' (4,) is missing."),
    "extra": ({"other": np.ones(2)}, "extra", "1 of 4 tensors differ (1 extra), first 'other' (2,) is too many."),
    "shape": (
        {"conv.weight": np.ones((8, 3, 3, 3))}, "shape",
        "1 of 3 tensors differ, first 'conv.weight' (8, 3, 3, 3) instead of (4, 3, 3, 3).",
    ),
    "axes": ({"conv.bias": np.ones((4, 1))}, "shape", "(4, 1) instead of (4,)"),
    "type": ({"conv.bias": np.ones(4, np.int32)}, "type", "'conv.bias' int32 instead of float32"),
    "type, reverse": ({"index": np.ones((2, 3))}, "type", "'index' float64 instead of int64"),
    "integers": ({"index": np.array([[0, 1, 2], [3, 9, 5]])}, "integers", "'index' has 9 at [4] instead of 4 at [4]"),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENCES)
def test_each_kind_of_difference_is_named(name: str) -> None:
    changed, kind, expected_text = DIFFERENCES[name]
    with pytest.raises(MismatchError) as caught:
        Family.from_checkpoints({"x4v3": state(0), "wdn": state(1, **changed)})
    message = str(caught.value)
    assert message.startswith("Member 'wdn' does not fit family 'x4v3': 1 of ")
    assert expected_text in message
    assert message.endswith("Blend only checkpoints of one architecture.")
    assert caught.value.exit_code == 4
    assert [
        difference.kind
        for difference in find_differences(
            Checkpoint.from_state_dict(state(0)), Checkpoint.from_state_dict(state(1, **changed))
        )
    ] == [kind]


def test_several_differences_are_counted() -> None:
    other = state(1, **{"conv.weight": np.ones((2, 3, 3, 3)), "conv.bias": None, "a": np.ones(1), "b": np.ones(1)})
    differences = find_differences(Checkpoint.from_state_dict(state(0)), Checkpoint.from_state_dict(other))
    assert [(difference.key, difference.kind) for difference in differences] == [
        ("conv.weight", "shape"), ("conv.bias", "missing"), ("a", "extra"), ("b", "extra"),
    ]  # fmt: skip
    with pytest.raises(MismatchError, match=r"4 of 5 tensors differ \(1 missing, 2 extra\), first 'conv.weight'"):
        Family.from_checkpoints({"a": state(0), "b": other})


def test_names_from_files_are_escaped() -> None:
    long = "x" * 500
    with pytest.raises(MismatchError) as caught:
        Family.from_checkpoints({"a": state(0), "b": state(0, **{long: np.ones(1)})})
    assert len(str(caught.value)) <= 300


def test_float_types_may_differ() -> None:
    float16_state = {name: array.astype(np.float16) if array.dtype == np.float32 else array for name, array in state(1).items()}
    family = Family.from_checkpoints({"a": state(0), "b": float16_state})
    assert family["b"].checkpoint.tensors["conv.weight"].dtype == np.float16
    assert family.notes == ("b has 2 tensors of float16 where a has float32; each stays as it is.",)


@pytest.mark.parametrize(("bad", "count"), [(np.nan, 1), (np.inf, 2), (-np.inf, 3)])
def test_nonfinite_numbers_are_refused(bad: float, count: int) -> None:
    bias = np.zeros(4)
    bias[:count] = bad
    with pytest.raises(InputError, match=f"Member 'b' has {count} NaN or infinite numbers in 'conv.bias' of 4"):
        Family.from_checkpoints({"a": state(0), "b": state(1, **{"conv.bias": bias})})


def test_equal_members_are_noted() -> None:
    assert Family.from_checkpoints({"a": state(0), "b": state(0)}).notes == (
        "b has the same numbers as a; a blend of the two changes nothing.",
    )


def test_the_number_of_members_is_limited() -> None:
    with pytest.raises(UsageError, match="1 given"):
        Family.from_checkpoints({"a": state(0)})
    with pytest.raises(UsageError, match="0 given"):
        Family.from_checkpoints({})
    assert len(Family.from_checkpoints({f"m{i}": state(i) for i in range(16)}).members) == 16
    with pytest.raises(LimitError, match="17 members"):
        Family.from_checkpoints({f"m{i}": state(i) for i in range(17)})


@pytest.mark.parametrize("name", ["", "a=b", "a,b", "-a", ".a", "a b", "x" * 65, "\u00e9", "a\n", "a/b", 3])
def test_invalid_names_are_refused(name: Any) -> None:
    with pytest.raises(UsageError, match="not usable"):
        Family.from_checkpoints({"good-Name_1.0": state(0), name: state(1)})


def test_members_may_be_paths_checkpoints_or_state_dicts() -> None:
    with pytest.raises(UsageError, match="Member 'b' is a int"):
        Family.from_checkpoints({"a": state(0), "b": 3})  # type: ignore[dict-item]
    with pytest.raises(CheckpointError, match="does not exist"):
        Family.from_checkpoints({"a": state(0), "b": "absent.pth"})


def test_buffers_that_the_network_computes_are_not_compared() -> None:
    """SwinIR saves a mask of the size of its training images; other versions of it save neither mask nor index."""

    def window_state(mask: int, index: bool = True, extra: bool = False) -> dict[str, np.ndarray]:
        tensors = {"b.weight": np.full(3, float(mask + 1), np.float32)}
        tensors |= {"b.attn_mask": np.zeros((mask, 4, 4), np.float32)} if mask else {}
        tensors |= {"b.relative_position_index": np.arange(4)} if index else {}
        return tensors | ({"c.attn_mask": np.zeros(1, np.float32)} if extra else {})

    family = Family.from_checkpoints(
        {"a": window_state(2), "b": window_state(3), "c": window_state(0, index=False, extra=True), "d": window_state(2)}
    )
    for name, weight in zip("abcd", (3, 4, 1, 3), strict=True):
        tensors = family[name].checkpoint.tensors
        assert set(tensors) == set(window_state(2))
        assert tensors["b.weight"][0] == weight
        assert np.array_equal(tensors["b.attn_mask"], np.zeros((2, 4, 4)))
    assert [note for note in family.notes if "computes it itself" in note] == [
        "b: Taken from a, because the network computes it itself: 1 buffer, first 'b.attn_mask'.",
        "c: Taken from a, because the network computes it itself: 3 buffers, first 'b.attn_mask'.",
    ]
    changed = {**window_state(2), "b.relative_position_index": np.arange(4)[::-1].copy()}
    with pytest.raises(MismatchError, match="relative_position_index"):  # another network
        Family.from_checkpoints({"a": window_state(2), "b": changed})


def test_float64_weights_and_what_rounding_makes_equal_are_noted() -> None:
    weight = np.linspace(0.1, 1, 12)
    family = Family.from_checkpoints({"a": {"w": weight}, "b": {"w": weight * (1 + 1e-9)}})
    assert "a has 1 tensors of float64; networks run with them rounded to float32." in family.notes
    assert "b has the same numbers as a; a blend of the two changes nothing." in family.notes
    assert not Family.from_checkpoints({"a": {"w": weight}, "b": {"w": weight * 2}}).notes[2:]
