"""The real TensorRT for RTX on every architecture: its parser, its marking of weights, its builder, and how it fails without a GPU."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engines.conftest import NAMES, _case, write
from tests.engines.trt import real_library
from tests.engines.trt.real_library import KINDS, PRECISIONS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], dict[str, Any]]:
    """What the builds of all architectures gave, by architecture, kind and precision."""
    reason = real_library.why_missing()
    if reason is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("bundles")
    paths = [write(_case(name), folder / f"{name}.dni").path for name in NAMES]
    return {(one["bundle"], one["kind"], one["precision"]): one for one in real_library.run(paths)}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "refit"])
@pytest.mark.parametrize("name", NAMES)
def test_the_real_builder_builds(
    name: str, kind: str, precision: str, results: dict[tuple[str, str, str], dict[str, Any]]
) -> None:
    result = results[name, kind, precision]
    assert result["error"] is None
    assert result["bytes"] > 10_000
    assert result["steps"] > 10  # of its progress
    # Without a driver it cannot be loaded: an error of ours with the library's words, and no crash.
    assert result["load error"].startswith(f"{result['library']} could not load the plan: ")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NAMES)
def test_the_real_parser_takes_every_weight_and_the_build_needs_a_driver(
    name: str, precision: str, results: dict[tuple[str, str, str], dict[str, Any]]
) -> None:
    """Its kernels that refit are compiled by the driver. Refused names or nodes would end in another error, before the build."""
    result = results[name, "refit", precision]
    assert result["weights"] > 0
    assert result["error"].startswith(f"{result['library']} could not build the engine: ")
    assert "CUDA" in result["error"]
