"""RRDBNet: a rebuilt network has the names of its file."""

from __future__ import annotations

from tests.support.pico_architectures import pico_state


def test_keys_of_a_rebuilt_network_are_the_files_own() -> None:
    assert list(pico_state("rrdbnet_old"))[:2] == ["model.0.weight", "model.0.bias"]
    assert list(pico_state("rrdbnet_old"))[2] == "model.1.sub.0.RDB1.conv1.0.weight"
    assert list(pico_state("rrdbnet_old"))[-2:] == ["model.10.weight", "model.10.bias"]
