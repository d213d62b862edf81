"""export: checkpoints become a bundle, and nothing is written if anything is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn

import dni_deploy as dni
from dni_deploy.api import export as export_module
from dni_deploy.api.export import export
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.calibration.alignment import permute_tensors
from dni_deploy.calibration.channel_groups import find_channel_groups
from dni_deploy.cli.main import main
from dni_deploy.errors import CheckpointError, MismatchError, UsageError
from dni_deploy.signature import Signature
from exporters import export_network as module
from exporters.export_graph import ExportedGraph
from tests.support.exported_network import export_pico, seeded_input
from tests.support.pico_architectures import pico_family

State = dict[str, np.ndarray]


@pytest.fixture
def states() -> list[State]:
    return pico_family("dncnn_bn", 2)


def family(states: list[State]) -> dict[str, Any]:
    return dict(zip(("soft", "sharp"), states, strict=True))


def test_checkpoints_become_a_bundle_that_can_be_moved(states: list[State], tmp_path: Path) -> None:
    torch.save({"params_ema": {key: torch.from_numpy(value) for key, value in states[0].items()}}, tmp_path / "soft.pth")
    save_file(states[1], tmp_path / "sharp.safetensors")
    steps: list[tuple[int, int, str]] = []

    bundle = dni.export(
        {"soft": tmp_path / "soft.pth", "sharp": str(tmp_path / "sharp.safetensors")},
        tmp_path / "d.dni",
        progress=lambda finished, total, what: steps.append((finished, total, what)),
    )

    assert (bundle.members, bundle.architecture, bundle.manifest.opset) == (("soft", "sharp"), "dncnn", 18)
    assert bundle.weight_names == tuple(key for key, value in states[0].items() if value.dtype.kind == "f")
    assert bundle.manifest.unused == ()
    assert 0 < bundle.manifest.graph_facts["probe_error"] < 1e-5  # rounding
    for name, state in family(states).items():
        for key, value in bundle.read_weights(name).items():
            assert np.array_equal(value, state[key])
    assert Bundle.open(tmp_path / "d.dni").digest == bundle.digest
    graph = onnx.load(str(bundle.path / bundle.manifest.graph.file))  # with the first member's weights, by external data
    first = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    assert all(np.array_equal(first[key], states[0][key]) for key in bundle.weight_names)
    assert [finished for finished, _, _ in steps] == [0, 1, 2, 3, 4, 5]
    assert {total for _, total, _ in steps} == {5}


def test_entries_and_prefixes_reach_the_bundle_with_a_note(
    states: list[State], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = [{f"net_g.{key}": torch.from_numpy(value) for key, value in state.items()} for state in states]
    torch.save({"A": tensors[0], "B": tensors[1]}, tmp_path / "both.pth")
    path = tmp_path / "both.pth"
    with pytest.raises(CheckpointError, match=r"holds 2 networks: 'A\.net_g', 'B\.net_g'"):
        export({"soft": path, "sharp": path}, tmp_path / "x.dni")
    bundle = export({"soft": f"{path}#A", "sharp": f"{path}#B.net_g"}, tmp_path / "x.dni")
    for name, state in family(states).items():
        assert all(np.array_equal(value, state[key]) for key, value in bundle.read_weights(name).items())
    assert "soft: The prefix 'net_g.' was removed from every name." in bundle.manifest.graph_facts["notes"]

    assert main(["export", f"a={path}#A", f"{path}", "--key", "B", "-o", str(tmp_path / "y.dni")]) == 0
    printed = capsys.readouterr().out
    assert "a, both" in printed
    assert "both: The prefix 'net_g.' was removed from every name." in printed
    written = Bundle.open(tmp_path / "y.dni")
    assert all(np.array_equal(value, states[1][key]) for key, value in written.read_weights("both").items())


def test_a_bundle_without_anything_to_note_has_no_notes(states: list[State], tmp_path: Path) -> None:
    assert "notes" not in export(family(states), tmp_path / "x.dni").manifest.graph_facts


def test_the_same_members_give_the_same_bytes(states: list[State], tmp_path: Path) -> None:
    one, two = (export(family(states), tmp_path / name) for name in ("one.dni", "two.dni"))
    assert one.digest == two.digest


def test_options_reach_the_bundle(states: list[State], tmp_path: Path) -> None:
    bundle = export(family(states), tmp_path / "d.dni", arch="dncnn", opset=17, value_range=(-1, 1), residual=True)
    signature = bundle.signature
    assert (signature.low, signature.high, signature.residual, bundle.manifest.opset) == (-1.0, 1.0, True, 17)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_members_of_another_precision_stay_lossless(dtype: Any, states: list[State], tmp_path: Path) -> None:
    states[1] = {key: value.astype(dtype) if value.dtype.kind == "f" else value for key, value in states[1].items()}
    bundle = export(family(states), tmp_path / "d.dni")
    assert all(
        value.dtype == dtype and np.array_equal(value, states[1][key]) for key, value in bundle.read_weights("sharp").items()
    )


def test_an_existing_output_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "d.dni").mkdir()
    with pytest.raises(UsageError, match=r"exists; give --force to replace it\. Nothing was written\."):
        export({"a": tmp_path / "missing.pth", "b": tmp_path / "missing.pth"}, tmp_path / "d.dni")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not a bundle"):
        export({"a": tmp_path / "missing.pth", "b": tmp_path / "missing.pth"}, tmp_path / "notes.txt", force=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(CheckpointError, match=r"missing\.pth"):
        export({"a": tmp_path / "missing.pth", "b": tmp_path / "missing.pth"}, tmp_path / "new.dni")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.dni", "notes.txt"]


def test_force_replaces_a_bundle(states: list[State], tmp_path: Path) -> None:
    first = export(family(states), tmp_path / "d.dni")
    second = export(family(states[::-1]), tmp_path / "d.dni", force=True)
    assert second.digest != first.digest
    assert Bundle.open(tmp_path / "d.dni").digest == second.digest


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"opset": 16}, "Opset 16 is too old"),
        ({"opset": 99}, "Opset 99 is too new"),
        ({"arch": "resnet9000"}, "no architecture 'resnet9000'"),
        ({"value_range": (1, -1)}, "does not go up"),
        ({"value_range": (0, float("nan"))}, "does not go up"),
    ],
)
def test_invalid_options_write_nothing(options: dict[str, Any], words: str, states: list[State], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        export(family(states), tmp_path / "d.dni", **options)
    assert list(tmp_path.iterdir()) == []


def test_residual_needs_an_output_as_large_as_the_input(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--residual needs an output as large"):
        export(family(pico_family("compact_x2", 2)), tmp_path / "d.dni", residual=True)


@pytest.mark.parametrize(
    ("signature", "architecture", "color", "expected"),
    [
        (Signature(1, 1), "srcnn", None, "luma"),
        (Signature(1, 1, scale=2), "onnx", None, "luma"),
        (Signature(1, 1), "dncnn", None, "channels"),
        (Signature(1, 1), "dncnn", "luma", "luma"),
        (Signature(1, 1, scale=2), "compact", "channels", "channels"),
        (Signature(), "srcnn", None, "channels"),
        (Signature(kind="latent"), "dcgan", None, "channels"),
    ],
)
def test_networks_of_one_channel_that_enlarge_get_luma(
    signature: Signature, architecture: str, color: Any, expected: str
) -> None:
    assert export_module._choose_color(signature, architecture, color).color == expected


def test_luma_is_for_networks_of_one_channel(states: list[State], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--color luma is for networks of one channel; dncnn goes from 3 to 3"):
        export(family(states), tmp_path / "d.dni", color="luma")
    with pytest.raises(UsageError, match='The color is "luma" or "channels"'):
        export(family(states), tmp_path / "d.dni", color="hue")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_members_of_two_architectures_write_nothing(states: list[State], tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="sharp"):
        export({"soft": states[0], "sharp": pico_family("compact", 2)[0]}, tmp_path / "d.dni")
    assert list(tmp_path.iterdir()) == []


class Shared(nn.Module):
    """One convolution under two names, and one that `forward` never uses."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.spare = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 1, 1)
        self.two = self.one

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu(self.one(x)))  # type: ignore[no-any-return]


def shared(seed: int) -> State:
    torch.manual_seed(seed)
    return {key: value.numpy().copy() for key, value in Shared().state_dict().items()}


@pytest.mark.usefixtures("export_in_this_process")
def test_a_user_network_with_tied_and_unused_weights_is_exported(tmp_path: Path) -> None:
    states = [shared(0), shared(1)]
    bundle = export(family(states), tmp_path / "d.dni", arch="tests.dni_deploy.api.test_export:Shared")
    assert bundle.weight_names == ("one.weight", "one.bias")
    assert bundle.manifest.unused == ("spare.weight", "spare.bias")
    assert bundle.manifest.tied == {"two.weight": "one.weight", "two.bias": "one.bias"}

    states[1]["two.bias"] = states[1]["two.bias"] + 1
    with pytest.raises(MismatchError, match=r"one tensor as 'two\.bias' and 'one\.bias', but in member 'sharp' the two differ"):
        export(family(states), tmp_path / "e.dni", arch="tests.dni_deploy.api.test_export:Shared")
    assert [path.name for path in tmp_path.iterdir()] == ["d.dni"]


def test_a_cached_graph_of_another_network_is_exported_again(
    states: list[State], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache key cannot cover everything that a user's network depends on; the probe checks the result."""
    original_export = module.export_graph_cached

    def export_wrong_graph(*arguments: Any, fresh: bool = False, **options: Any) -> tuple[ExportedGraph, bool]:
        exported_graph, _ = original_export(*arguments, fresh=fresh, **options)
        if not fresh:
            exported_graph.graph.graph.node[-1].op_type = "Add"  # x + noise instead of x - noise
        return exported_graph, not fresh

    monkeypatch.setattr(module, "export_graph_cached", export_wrong_graph)
    bundle = export(family(states), tmp_path / "d.dni")
    assert bundle.read_graph().graph.node[-1].op_type == "Sub"


@pytest.mark.parametrize("name", ["rrdbnet", "compact", "dncnn_bn"])
def test_a_permuted_copy_is_aligned(name: str, tmp_path: Path) -> None:
    """Every alpha is then that of the pair which was never permuted: the tensors are the same, bit for bit."""
    first, near = pico_family(name, 2)
    graph, net, _ = export_pico(name)
    groups = find_channel_groups(graph.graph, graph.names)
    random = np.random.default_rng(1)
    permuted = permute_tensors(near, groups, [random.permutation(size) for size in groups.sizes])
    x = seeded_input(1, 3, 24, 32)
    outputs = []
    for state in (near, permuted):
        net.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in state.items()})
        outputs.append(net(x).detach())
    assert torch.allclose(*outputs, rtol=0, atol=1e-5 * float(outputs[0].abs().max()))  # PyTorch sees the same network

    bundle = export({"a": first, "b": permuted}, tmp_path / "x.dni", align=True)
    assert bundle.manifest.graph_facts["alignment"]["members"]["b"]["moved"] > sum(groups.sizes) / 2
    assert not np.array_equal(permuted[graph.names[0]], near[graph.names[0]])
    for key, value in bundle.read_tensors("b").items():
        assert np.array_equal(value, near[key])


def test_a_family_in_one_order_stays_as_it_is(states: list[State], tmp_path: Path) -> None:
    bundle = export(family(states), tmp_path / "x.dni", align=True)
    assert bundle.manifest.graph_facts["notes"] == ["sharp: 0 of 32 channels were moved to the places that they have in soft."]
    assert all(np.array_equal(value, states[1][key]) for key, value in bundle.read_tensors("sharp").items())
