"""Cache: the graph comes back byte for byte, never for another network, and never has to be there."""

from __future__ import annotations

import copy
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni_deploy.signature import Signature
from dni_deploy.utils import hardware
from dni_deploy.utils.derived_file import write_derived_file
from dni_deploy.utils.hardware import cache_folder
from exporters import cache
from exporters.cache import cache_key, export_graph_cached
from exporters.export_graph import ExportedGraph, export_graph
from exporters.graph_entry import ENTRY_MAGIC
from tests.support.pico_architectures import pico_net


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DNI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


EXPORTED: dict[str, ExportedGraph] = {}


@pytest.fixture(autouse=True)
def export_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is what is tested: the exporter runs once for each network, and its result stands for those of later runs."""

    def export(net: nn.Module, signature: Signature, *, opset: int) -> ExportedGraph:
        values = sha256(b"".join(tensor.numpy().tobytes() for tensor in net.state_dict().values()))
        key = f"{net}, {signature}, {opset}, {values.hexdigest()}"
        if key not in EXPORTED:
            EXPORTED[key] = export_graph(net, signature, opset=opset)
        return copy.deepcopy(EXPORTED[key])

    monkeypatch.setattr(cache, "export_graph", export)


def take(net: nn.Module, **options: Any) -> tuple[bytes, bool]:
    lifted, cached = export_graph_cached("dncnn", net, Signature(), **options)
    return lifted.graph.SerializeToString(deterministic=True), cached


@pytest.mark.slow
def test_the_second_lift_reads_a_file_with_the_same_bytes(folder: Path) -> None:
    net = pico_net("dncnn")
    (first, was_cached), (second, is_cached) = take(net), take(net)
    assert (was_cached, is_cached) == (False, True)
    assert first == second
    (entry,) = folder.iterdir()
    weights = sum(tensor.nbytes for tensor in net.state_dict().values())
    assert entry.stat().st_size < len(first) - weights / 2  # no weights in it

    other = pico_net("dncnn", seed=5)  # other values, the same graph, and its own values in it
    filled, is_cached = take(other)
    assert is_cached
    assert filled == take(other, fresh=True)[0] != first


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
        lambda data: data.replace(b"dni-deploy graph 2", b"dni-deploy graph 0"),
    ],
    ids=["empty", "cut", "flipped bit", "another version"],
)
def test_a_damaged_entry_is_ignored_and_written_again(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    net = pico_net("dncnn")
    first, _ = take(net)
    (entry,) = folder.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    assert take(net) == (first, False)
    assert [path.read_bytes() for path in folder.iterdir()] == [whole]
    assert take(net) == (first, True)


def test_an_entry_that_is_whole_but_of_other_content_is_ignored(folder: Path) -> None:
    net = pico_net("dncnn")
    first, _ = take(net)
    (entry,) = folder.iterdir()
    body = b'{"names": ["of.another.net"], "unused": []}\n'
    write_derived_file(entry, ENTRY_MAGIC + b"\n" + body, force=True)
    assert take(net) == (first, False)


def test_a_folder_that_cannot_be_made_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DNI_CACHE", str(tmp_path / "file" / "cache"))
    net = pico_net("dncnn")
    assert take(net)[1] is False
    assert take(net)[1] is False


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hardware.os, "name", "posix")
    monkeypatch.setenv("DNI_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv("DNI_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "dni-deploy"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "dni-deploy"


class Net(nn.Module):
    """Its repr shows neither the gain nor the index nor the mask."""

    def __init__(self, gain: float = 2.0, index: int = 0, mask: float = 1.0, slope: float = 0.1) -> None:
        super().__init__()
        self.conv, self.activation = nn.Conv2d(3, 3, 3, padding=1), nn.LeakyReLU(slope)
        self.gain = gain
        self.register_buffer("index", torch.tensor(index))
        self.register_buffer("mask", torch.full((3, 1, 1), mask), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.conv(x)) * self.gain * self.mask  # type: ignore[operator]


def test_the_key_holds_everything_but_the_weights() -> None:
    torch.manual_seed(0)
    keys = [
        cache_key("net", Net(), Signature(), 18),
        cache_key("other", Net(), Signature(), 18),
        cache_key("net", Net(), Signature(multiple=2), 18),
        cache_key("net", Net(), Signature(), 17),
        *(cache_key("net", Net(**{name: 3}), Signature(), 18) for name in ("gain", "index", "mask", "slope")),
        cache_key("net", pico_net("dncnn"), Signature(), 18),
    ]
    assert len(set(keys)) == len(keys)
    assert cache_key("net", Net(), Signature(), 18) == keys[0]  # other random weights
    assert cache_key("net", Net().train(), Signature(), 18) == keys[0]


def test_the_key_changes_with_the_exporter_and_the_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    net = Net()
    before = cache_key("net", net, Signature(), 18)
    monkeypatch.setattr(cache, "version", lambda name: "0")
    versions = cache_key("net", net, Signature(), 18)
    (tmp_path / "net.py").write_text("# the class, one day later")
    monkeypatch.setattr(cache, "_find_source_file", lambda kind: str(tmp_path / "net.py") if kind is Net else None)
    assert len({before, versions, cache_key("net", net, Signature(), 18)}) == 3


def test_the_log_tells_whether_the_cache_held_the_graph(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    net = pico_net("dncnn")
    with caplog.at_level("INFO", "exporters"):
        take(net)
        take(net)
    messages = [record.getMessage() for record in caplog.records if record.name == "exporters.cache"]
    assert "not in the export cache, took" in messages[0]
    assert messages[1].startswith(f"the export cache holds this graph: {folder}")
