"""A network that ends the interpreter while it is exported is an error, and all other ones come back as they would without it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni_deploy.errors import InputError
from dni_deploy.signature import Signature
from exporters.architectures.custom import load_custom_architecture
from exporters.cache import export_graph_cached
from exporters.export_graph import export_graph
from exporters.export_in_child import run_child

FACTORIES = f"{__name__}:"


class Crashes(nn.Conv2d):
    """Ends its process while it is traced, as SPAN did."""

    def forward(self, x: Tensor) -> Tensor:
        """Runs as usual outside the exporter."""
        if torch.compiler.is_exporting():
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().forward(x)


def make_crashing() -> nn.Module:
    return Crashes(3, 3, 3, padding=1)


def make_plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))


def make_branching() -> nn.Module:
    class Branches(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if float(x.mean()) > 0.5 else x

    return Branches(3, 3, 3, padding=1)


def build(factory: str) -> nn.Module:
    architecture = load_custom_architecture(FACTORIES + factory)
    torch.manual_seed(0)
    state = {key: value.detach().numpy() for key, value in architecture.infer_hyperparameters({}).state_dict().items()}
    return architecture.build(state)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DNI_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def child_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the child's code here: it takes a second only to import PyTorch."""

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, run_child(Path(command[-1])))

    monkeypatch.setattr(subprocess, "run", run)


@pytest.mark.slow
def test_what_ends_the_interpreter_is_one_sentence() -> None:
    net = build("make_crashing")
    with pytest.raises(InputError, match=r"^The network Crashes cannot be exported: .* ended by signal 11 \(SIGSEGV\)"):
        export_graph_cached(FACTORIES + "make_crashing", net, Signature())


@pytest.mark.slow
def test_the_child_gives_the_same_graph() -> None:
    net = build("make_plain")
    graph, cached = export_graph_cached(FACTORIES + "make_plain", net, Signature())
    assert not cached
    assert graph.graph.SerializeToString(deterministic=True) == export_graph(net, Signature()).graph.SerializeToString(
        deterministic=True
    )


@pytest.mark.usefixtures("child_in_this_process")
def test_the_child_gives_the_same_error() -> None:
    with pytest.raises(InputError, match="The network Branches cannot be exported"):
        export_graph_cached(FACTORIES + "make_branching", build("make_branching"), Signature())


@pytest.mark.usefixtures("child_in_this_process")
@pytest.mark.slow
def test_a_network_that_the_child_cannot_make_is_exported_here() -> None:
    """Its module is nowhere on the child's path."""
    net = build("make_plain")
    name = "no.such.module:make_plain"
    assert export_graph_cached(name, net, Signature())[0].names == tuple(net.state_dict())
