"""PyTorch's rows of the GPU benchmark: each follows alpha, compiled and replayed ones too, and computes what float64 computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.gpu.conftest import USES_FAKES
from tests.support.needs_gpu import need_gpu

MODES = ("eager", "graph", "reduce-overhead", "max-autotune")


@pytest.fixture(autouse=True)
def on_the_device(gpu: Any) -> None:
    if USES_FAKES:
        pytest.skip("PyTorch for CUDA has no fake")
    need_gpu("torch", cuda=False)
    import torch

    if not torch.cuda.is_available():
        pytest.skip("this torch sees no GPU")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("mode", MODES)
def test_it_follows_alpha(mode: str, precision: str, tmp_path: Path) -> None:
    from benchmarks.gpu.check import describe_fault, measure_agreement
    from benchmarks.gpu.prepare import prepare
    from benchmarks.gpu.prepared import read_expected_outputs
    from benchmarks.gpu.torch_peers import TorchPeer
    from tests.support.pico_architectures import pico_net

    prepared = prepare(tmp_path, "pico", title="Pico", build=lambda: pico_net("dncnn_bn"))
    peer = TorchPeer(prepared.bundle(tmp_path / "pico.dni"), precision, mode)
    agreement = measure_agreement(peer, read_expected_outputs(tmp_path, "pico"), changes=True)
    assert describe_fault(agreement, precision) is None
    assert agreement.returns
    for side in (32, 48):  # another shape is another network to record or compile
        y = peer.infer(0, np.random.default_rng(0).random((1, 3, side, side), np.float32))
        assert y.shape[2:] == (side, side)
    peer.close()
