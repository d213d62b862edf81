"""Optional dependencies: what is missing is named with the extra that installs it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from dni_deploy.errors import UnavailableError
from dni_deploy.utils.optional_packages import (
    EXTRA_BY_PACKAGE,
    explain_missing_package,
    import_optional,
    require_own_package,
)

ROOT = Path(__file__).parents[3]


def test_a_module_of_ours_is_imported() -> None:
    assert import_optional("dni_deploy.signature").__name__ == "dni_deploy.signature"


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mido", None)
    monkeypatch.delitem(sys.modules, "dni_deploy.control.midi", raising=False)
    with pytest.raises(UnavailableError, match=r"needs the package 'mido'.*pip install 'dni-deploy\[midi\]'"):
        import_optional("dni_deploy.control.midi")


def test_another_missing_module_is_a_bug() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"dni_deploy\.nonsense"):
        import_optional("dni_deploy.nonsense")
    assert explain_missing_package(ModuleNotFoundError("x")) is None


@pytest.mark.parametrize("name", ["engines", "exporters"])
def test_a_package_of_the_same_name_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = ModuleType(name)
    other.__file__ = "/somewhere/\x1belse.py"
    monkeypatch.setitem(sys.modules, name, other)
    with pytest.raises(UnavailableError, match=rf"Another package named '{name}' hides .*/somewhere/\\x1belse.py"):
        require_own_package(name)


def test_every_extra_exists() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    assert {extra for extra in EXTRA_BY_PACKAGE.values() if f"\n{extra} = [" not in extras} == set()
