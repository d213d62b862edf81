"""Accounts that are trusted are found by name or number, and have one place for their keys."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dni_deploy.errors import UsageError
from dni_deploy.utils.trusted_users import TrustedUser, find_trusted_users


def test_numbers_and_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pwd = pytest.importorskip("pwd")
    name = pwd.getpwuid(0).pw_name
    assert find_trusted_users([name, "12345"]) == (TrustedUser(name, 0), TrustedUser("12345", 12345))
    monkeypatch.setenv("DNI_CONFIG", str(tmp_path))
    assert TrustedUser("render", 7).key_path == tmp_path / "trusted-keys" / "render.key"


@pytest.mark.parametrize("name", ["", "no-such-user", "../root", "a\0b", "-1", "٣"])
def test_what_is_no_account(name: str) -> None:
    with pytest.raises(UsageError, match="There is no user"):
        find_trusted_users([name])


def test_a_system_without_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pwd", None)
    with pytest.raises(UsageError, match="Files have no owners"):
        find_trusted_users(["root"])
