"""PATH#ENTRY: the entry is split off, unless the file's own name has a "#"."""

from __future__ import annotations

from pathlib import Path

from dni_deploy.utils.file_entry import split_entry


def test_the_entry_is_what_follows_the_last_mark(tmp_path: Path) -> None:
    assert split_entry("a.pth") == ("a.pth", None)
    assert split_entry(Path("x/a.pth#gen.params_ema")) == ("x/a.pth", "gen.params_ema")
    assert split_entry("a#b.pth#c") == ("a#b.pth", "c")
    assert split_entry("a.pth#") == ("a.pth#", None)
    (tmp_path / "a#1.pth").touch()
    assert split_entry(tmp_path / "a#1.pth") == (str(tmp_path / "a#1.pth"), None)
