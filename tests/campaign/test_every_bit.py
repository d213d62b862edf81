"""A bundle of which any bit was changed, or any part cut off, is refused. A sample is in tests/dni_deploy/bundle/test_bundle.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import DniError
from tests.support import pico_bundle


def is_refused(path: Path) -> bool:
    """Whether a bundle is refused where it is opened or read whole."""
    try:
        bundle = Bundle.open(path)
        for member in bundle.members:
            bundle.read_weights(member)
        bundle.read_graph()
    except DniError as error:
        return "\n" not in str(error)
    return False


def list_survivors(folder: Path, step: int) -> tuple[int, list[str]]:
    """Flips every `step`-th bit and cuts each file at every `step`-th length; returns how many, and what was not refused."""
    path = folder / "x.dni"
    pico_bundle.write(path)
    tried, survivors = 0, []
    assert not is_refused(path)
    for file in sorted(path.iterdir()):
        data = file.read_bytes()
        descriptor = os.open(file, os.O_RDWR)
        for bit in range(0, 8 * len(data), step):
            os.pwrite(descriptor, bytes([data[bit // 8] ^ 1 << bit % 8]), bit // 8)
            survivors += [] if is_refused(path) else [f"bit {bit} of {file.name}"]
            os.pwrite(descriptor, data[bit // 8 : bit // 8 + 1], bit // 8)
        os.close(descriptor)
        for size in range(0, len(data), step):
            file.write_bytes(data[:size])
            survivors += [] if is_refused(path) else [f"{size} bytes of {file.name}"]
        for more in (b"\0", b"\n", b" ", data):
            file.write_bytes(data + more)
            survivors += [] if is_refused(path) else [f"{more[:1]!r} behind {file.name}"]
        file.write_bytes(data)
        tried += len(range(0, 8 * len(data), step)) + len(range(0, len(data), step)) + 4
    assert not is_refused(path)
    return tried, survivors


@pytest.mark.parametrize("step", [401, pytest.param(1, marks=pytest.mark.campaign)])
def test_no_changed_bit_is_overlooked(tmp_path: Path, step: int) -> None:
    tried, survivors = list_survivors(tmp_path, step)
    print(f"{tried:,} changes, {len(survivors)} not refused")
    assert tried > 30_000 // step
    assert survivors == []
