"""Optional dependencies: a missing package is named with the extra that installs it."""

from __future__ import annotations

import re
import subprocess
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


def test_an_own_module_is_imported() -> None:
    assert import_optional("dni_deploy.signature").__name__ == "dni_deploy.signature"


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mido", None)
    monkeypatch.delitem(sys.modules, "dni_deploy.control.midi", raising=False)
    with pytest.raises(UnavailableError, match=r"needs the package 'mido'.*pip install .*\[midi\]"):
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


def test_a_package_that_shadows_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "__init__.py").write_text("")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\nimport dni_deploy\n"
    code += "try: dni_deploy.open_session\nexcept dni_deploy.DniError as error: print(type(error).__name__, error)"
    # The first lookup of DniError imports our packages, too, so the handler imports its module.
    code = code.replace("dni_deploy.DniError", "__import__('dni_deploy.errors').errors.DniError")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.stdout.startswith("UnavailableError Another package named 'engines' hides")
    assert str(tmp_path) in done.stdout


def test_only_known_packages_are_explained() -> None:
    assert explain_missing_package(ModuleNotFoundError("x", name="something_else")) is None
    assert explain_missing_package(ModuleNotFoundError("x")) is None
    error = explain_missing_package(ModuleNotFoundError("x", name="onnxruntime.capi"))
    assert "[cpu]" in str(error)


def test_every_package_is_in_the_extra_that_is_named_for_it() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    other_name = {
        "pythonosc": "python-osc",
        "rtmidi": "python-rtmidi",
        "skimage": "scikit-image",
        "tensorrt_rtx": "tensorrt-rtx",
    }
    for module, extra in EXTRA_BY_PACKAGE.items():
        package = other_name.get(module, module)
        if package != "torchvision":  # spandrel installs it
            listed = re.findall(rf"^{extra} = \[(.*)\]", text, re.M)
            assert re.search(rf'"{package}(-gpu)?[<>=]', *listed), f"{extra} lacks {package}"
