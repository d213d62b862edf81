"""Outputs are looked at before any work is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from dni_deploy.errors import UsageError
from dni_deploy.utils.outputs import check_outputs


def test_what_can_be_written(tmp_path: Path) -> None:
    there = tmp_path / "there.png"
    there.write_bytes(b"x")
    assert check_outputs((tmp_path / "a.png", None), force=False) == (str(tmp_path / "a.png"),)
    assert check_outputs((there,), force=True) == (str(there),)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("there.png",), "exists; give --force"),
        (("none/a.png",), "folder of .* does not exist"),
        (("a.png", "./a.png"), "one name"),
    ],
)
def test_what_cannot(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    (tmp_path / "there.png").write_bytes(b"x")
    with pytest.raises(UsageError, match=said):
        check_outputs([tmp_path / name if name[0] != "." else f"{tmp_path}/{name}" for name in names], force=False)
