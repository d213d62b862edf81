"""Hardware facts: read where the system provides them, and None or a substitute elsewhere."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from dni_deploy.utils import hardware

CPU_INFO = "processor\t: 0\nmodel name\t: A CPU @ 2.5 GHz: fast\nflags\t\t: fpu avx2 avx512_vnni\n\nprocessor\t: 1\n"


@pytest.fixture(autouse=True)
def no_cache() -> Iterator[None]:
    hardware._read_cpu_fields.cache_clear()
    yield
    hardware._read_cpu_fields.cache_clear()


def give_cpu_info(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    def read_text(path: Path, **_: object) -> str:
        if text is None:
            raise FileNotFoundError(path)
        return text

    monkeypatch.setattr(hardware, "Path", type("FakePath", (type(Path()),), {"read_text": read_text}))


def test_the_cpu_is_named_with_the_flags_that_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    give_cpu_info(monkeypatch, CPU_INFO)
    assert hardware.cpu_name() == "A CPU @ 2.5 GHz: fast"
    assert hardware.layout_instruction_sets() == ("avx2", "avx512_vnni")  # in the order of LAYOUT_FLAGS


@pytest.mark.parametrize(
    ("flag", "expected"), [("avx512_vnni", False), ("avx512_bf16", True), ("amx_bf16", True), (None, False)]
)
def test_bfloat16_is_told_by_the_flags(flag: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    give_cpu_info(monkeypatch, None if flag is None else CPU_INFO.replace("avx512_vnni", flag))
    assert hardware.has_bfloat16() is expected


def test_arm_calls_its_flags_features(monkeypatch: pytest.MonkeyPatch) -> None:
    give_cpu_info(monkeypatch, "processor: 0\nFeatures: fp asimd\n")
    assert hardware.layout_instruction_sets() == ("asimd",)


def test_without_proc_there_is_a_name_and_no_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    give_cpu_info(monkeypatch, None)
    assert hardware.cpu_name() == (platform.processor() or platform.machine())
    assert hardware.layout_instruction_sets() == ()


def test_memory_is_what_psutil_measures() -> None:
    assert hardware.total_memory_bytes() == psutil.virtual_memory().total
    resident = hardware.measure_resident_bytes()
    assert resident is not None
    assert resident == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)  # memory grows between the two measurements


def test_without_sysconf_the_memory_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "os", SimpleNamespace())
    assert hardware.total_memory_bytes() is None
    assert hardware.measure_resident_bytes() is None


def test_only_the_cores_of_this_process_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "os", SimpleNamespace(sched_getaffinity=lambda pid: {0, 3, 5}))
    assert hardware.count_cores() == 3
    monkeypatch.setattr(hardware, "os", SimpleNamespace(cpu_count=lambda: None))
    assert hardware.count_cores() == 1


@pytest.mark.skipif(os.name == "nt", reason="the variables differ")
def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DNI_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert hardware.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("DNI_CACHE")
    assert hardware.cache_folder() == tmp_path / "xdg" / "dni-deploy"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert hardware.cache_folder() == tmp_path / ".cache" / "dni-deploy"


def test_without_a_home_there_is_no_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("DNI_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hardware.Path, "home", no_home)
    assert hardware.cache_folder() is None
