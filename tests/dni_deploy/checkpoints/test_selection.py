"""Selection: the one network in a file is found, and what is not of it is left out and named."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.checkpoints.selection import RecognizedNetwork
from dni_deploy.errors import CheckpointError

NETWORK_NAMES = ("first.weight", "body.0.weight", "last.bias")


def tensors(prefix: str = "", value: float = 1.0) -> dict[str, np.ndarray]:
    return {prefix + name: np.full(3, value, np.float32) for name in NETWORK_NAMES}


def others(prefix: str = "") -> dict[str, np.ndarray]:
    return {prefix + name: np.zeros((2, 2), np.float32) for name in ("0.weight", "0.bias", "1.weight", "1.bias")}


def recognize(shapes: Mapping[str, tuple[int, ...]], read: Any) -> RecognizedNetwork | None:
    return ("three", NETWORK_NAMES, "three x2") if dict(shapes) == dict.fromkeys(NETWORK_NAMES, (3,)) else None


def select(value: Any, key: str | None = None) -> Checkpoint:
    return Checkpoint.from_state_dict(value, key=key, recognizers=(recognize,))


def assert_selected(checkpoint: Checkpoint, value: float = 1.0) -> None:
    assert {name: array.tolist() for name, array in checkpoint.tensors.items()} == dict.fromkeys(NETWORK_NAMES, [value] * 3)
    assert checkpoint.network == ("three", NETWORK_NAMES, "three x2")


PREFIXES = (
    "module.", "_orig_mod.", "model.", "net.", "netG.", "generator.", "net_g.", "unet.", "student.", "ema_model.", "anything.",
    "module.net_g.", "model.module.", "module._orig_mod.", "a.b.c.d.",
)  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_is_removed_where_the_rest_is_a_network(prefix: str) -> None:
    checkpoint = select(tensors(prefix))
    assert_selected(checkpoint)
    kept = prefix.replace("_orig_mod.", "")
    assert checkpoint.notes == ((f"The prefix '{kept}' was removed from every name.",) if kept else ())


def test_a_number_in_a_name_is_a_layer_and_no_prefix() -> None:
    assert select(tensors("blocks.0.")).network is None
    assert select(tensors("a.b.c.d.e.")).network is None  # deeper than MAX_PREFIX_DEPTH


@pytest.mark.parametrize(
    ("extra", "left_out"),
    [
        (others("discriminator."), "4 tensors, 'discriminator'"),
        ({"step": np.array(5)}, "1 tensor, 'step'"),
        ({"n_averaged": np.ones((), np.int64), **others("loss_fn.vgg.")}, "5 tensors, 'n_averaged', 'loss_fn'"),
    ],
    ids=["discriminator", "step", "loss"],
)
@pytest.mark.parametrize("prefix", ["generator.", "module."])
def test_what_lies_beside_the_network_is_left_out(extra: dict[str, Any], left_out: str, prefix: str) -> None:
    checkpoint = select({"state_dict": {**extra, **tensors(prefix)}})
    assert_selected(checkpoint)
    assert any(left_out in note for note in checkpoint.notes)


@pytest.mark.parametrize(
    "extra",
    [
        {"total_ops": np.zeros(1), "total_params": np.zeros(1), "body.0.total_ops": np.zeros(1)},
        {"global_step": np.zeros((), np.float32)},
        {"iterations_done": np.zeros((), np.int64)},
        others("netD."),
        others("D."),
        others("vgg.features."),
        others("perceptual_loss."),
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_counters_and_networks_of_training_are_left_out_of_a_plain_state_dict(extra: dict[str, Any]) -> None:
    checkpoint = select({**tensors(), **extra})
    assert_selected(checkpoint)
    assert f"{len(extra)} tensor" in checkpoint.notes[0]


@pytest.mark.parametrize("name", ["attention.weight", "body.0.scale", "gamma", "body.0.decay"])
def test_a_tensor_that_may_be_the_networks_is_never_left_out(name: str) -> None:
    """It is another network then, and to leave a layer out would compute something else."""
    checkpoint = select({**tensors(), name: np.ones((3,) if name.endswith("decay") else (), np.float32)})
    assert checkpoint.network is None
    assert name in checkpoint.tensors


def test_batch_counters_stay() -> None:
    counter = {"body.1.num_batches_tracked": np.ones((), np.int64)}

    def tolerant(shapes: Mapping[str, tuple[int, ...]], read: Any) -> RecognizedNetwork | None:
        return recognize({name: shape for name, shape in shapes.items() if name not in counter}, read)

    assert list(Checkpoint.from_state_dict({**tensors(), **counter}, recognizers=(tolerant,)).tensors)[-1] == next(
        iter(counter)
    )


@pytest.mark.parametrize(
    ("network", "other"),
    [
        ("gen", "disc"), ("net_g", "net_d"), ("netG", "netD"), ("a", "b"), ("b", "a"), ("model", "generator"),
        ("generator_state_dict", "discriminator_state_dict"), ("anything", "state_dict"),
    ],
)  # fmt: skip
def test_the_entry_that_is_a_network_is_read(network: str, other: str) -> None:
    optimizer = {"state": {0: {"exp_avg": np.ones(3)}}, "param_groups": [{}]}
    checkpoint = select({other: others(), network: tensors(), "optimizer": optimizer})
    assert_selected(checkpoint)
    assert checkpoint.wrapper == network
    assert other in checkpoint.notes[0]


@pytest.mark.parametrize(
    ("value", "labels"),
    [
        ({"G_A": tensors(), "G_B": tensors()}, ["G_A", "G_B"]),
        ({"model": tensors(), "net": tensors()}, ["model", "net"]),
        ({"state_dict": {**tensors("one."), **tensors("two.")}}, ["state_dict.one", "state_dict.two"]),
        ({"G_A_ema": tensors(), "G_A": tensors(), "G_B": tensors()}, ["G_A_ema", "G_B"]),
        ({"G_A2B_ema": tensors(), "G_A2B": tensors(), "G_B2A": tensors()}, ["G_A2B_ema", "G_B2A"]),
    ],
)
def test_several_networks_are_listed_and_each_can_be_chosen(value: Any, labels: list[str]) -> None:
    listed = ", ".join(map(repr, labels))
    with pytest.raises(CheckpointError, match=f"holds 2 networks: {listed}. Choose one by --key ENTRY, or .*PATH#ENTRY"):
        select(value)
    for label in labels:
        assert_selected(select(value, label))


AVERAGES = (
    ("ema", "model"), ("model_ema", "model"), ("ema_state_dict", "state_dict"), ("G_ema", "G"), ("g_ema", "g"),
    ("params_ema", "params"), ("averaged_model", "model"), ("netG_ema", "netG"), ("state_dict_ema", "state_dict"),
    ("swa_state_dict", "model"), ("model_ema", "state_dict"), ("emaModel", "model"), ("net_g_ema", "net_g"),
)  # fmt: skip


@pytest.mark.parametrize("recognizers", [(recognize,), ()], ids=["known", "unknown"])
@pytest.mark.parametrize(("averaged", "raw"), AVERAGES)
def test_averaged_weights_are_read(averaged: str, raw: str, recognizers: Any) -> None:
    for names in ((averaged, raw), (raw, averaged)):
        value = {name: tensors(value=float(name == averaged)) for name in names}
        checkpoint = Checkpoint.from_state_dict(value, recognizers=recognizers)
        assert checkpoint.wrapper == averaged
        assert set(checkpoint.tensors["last.bias"].tolist()) == {1.0}
        assert "averaged" in checkpoint.notes[0]
        assert repr(raw) in checkpoint.notes[0]


def test_averaged_weights_under_a_prefix_are_read() -> None:
    checkpoint = select({"state_dict": {**tensors("generator.", 0), **tensors("generator_ema.")}})
    assert_selected(checkpoint)
    assert "'generator_ema.'" in checkpoint.notes[0]


def test_a_name_with_a_mark_inside_a_word_is_no_average() -> None:
    assert select({"schema": others(), "model": tensors()}).wrapper == "model"
    with pytest.raises(CheckpointError, match="'cinema', 'model'"):
        select({"cinema": tensors(), "model": tensors()})


@pytest.mark.parametrize(
    ("key", "message"),
    [("absent", "has no entry 'absent'; it has 'gen', 'disc'"), ("gen.absent", "no entry 'gen.absent'")],
)
def test_an_entry_that_does_not_exist_is_refused(key: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        select({"gen": tensors(), "disc": others()}, key)


def test_a_dict_that_holds_itself_is_read_once() -> None:
    value: dict[str, Any] = {"net": tensors()}
    for number in range(200):
        value[f"self{number}"] = value
    assert_selected(select(value))


def test_dicts_that_all_hold_each_other_are_read_in_time() -> None:
    """600 dicts in each other: 360,000 entries, looked through once for each depth."""
    dicts: list[dict[str, Any]] = [{} for _ in range(600)]
    for one in dicts:
        one.update({str(number): other for number, other in enumerate(dicts)})
    dicts[0]["net"] = tensors()
    before = time.process_time()
    assert_selected(select(dicts[0]))
    assert time.process_time() - before < 10


def test_a_tensor_beside_a_state_dict_does_not_hide_it() -> None:
    checkpoint = select({"best_psnr": np.ones((), np.float32), "weights_of_it": tensors()})
    assert_selected(checkpoint)
    assert checkpoint.notes == ()


def test_an_entry_that_cannot_be_read_is_no_network(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    good = {name: torch.ones(3) for name in NETWORK_NAMES}
    torch.save({"quantized": {"w": torch.ones(2).to(torch.float8_e5m2)}, "good": good}, tmp_path / "x.pth")

    def reading(shapes: Mapping[str, tuple[int, ...]], read: Any) -> RecognizedNetwork | None:
        return recognize(shapes, read) if read() else None

    assert_selected(Checkpoint.read(tmp_path / "x.pth", recognizers=(reading,)))
