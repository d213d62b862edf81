"""Building a plan for the CPU: written once, kept or replaced on request, and none where a graph forbids weights in place."""

from __future__ import annotations

from pathlib import Path

import pytest

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import UsageError
from engines.interface import BuildOptions
from engines.onnxruntime_cpu.build import build_plan
from tests.engines.conftest import write
from tests.support.handmade_graphs import HAND, weight_norm


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write(HAND["conv_bn"](), tmp_path / "x.dni", members=2)


def test_every_weight_is_verified_and_reported(bundle: Bundle) -> None:
    steps: list[tuple[int, int, str]] = []
    result = build_plan(bundle, BuildOptions(threads=1), lambda done, total, what: steps.append((done, total, what)))
    assert result.plan_path is not None
    assert result.plan_path.is_file()
    assert result.weight_count == 4  # two convolutions, each with a weight and a bias; the BatchNorm is folded
    assert result.max_relative_error is not None
    assert result.max_relative_error <= 1e-5  # float32 in another order of sums: 1e-7 to 1e-6
    assert steps[-1] == (4, 4, "changing each weight in place")


def test_a_plan_that_is_there_is_an_error_unless_it_is_kept_or_replaced(bundle: Bundle) -> None:
    path = build_plan(bundle, BuildOptions(threads=1)).plan_path
    assert path is not None
    before = path.stat().st_mtime_ns
    with pytest.raises(UsageError, match=r"exists; give --force to build it again\. Nothing was written\."):
        build_plan(bundle, BuildOptions(threads=1))
    kept = build_plan(bundle, BuildOptions(threads=1, keep=True))
    assert (kept.plan_path, kept.plan_kept) == (path, True)
    assert path.stat().st_mtime_ns == before
    replaced = build_plan(bundle, BuildOptions(threads=1, force=True))
    assert (replaced.plan_path, replaced.plan_kept) == (path, False)
    assert path.stat().st_mtime_ns != before


def test_there_is_no_plan_for_a_graph_that_is_rebuilt(tmp_path: Path) -> None:
    bundle = write(weight_norm(), tmp_path / "x.dni")
    result = build_plan(bundle, BuildOptions(threads=1))
    assert result.plan_path is None
    assert result.update_path.startswith("a new session for every alpha (ONNX Runtime computes ")
    assert not list((bundle.path / "plans").glob("*.plan"))
