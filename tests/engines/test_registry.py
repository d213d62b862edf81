"""Engine selection: which engine auto selects, how it reports the others, and that a broken engine does not affect them."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import engines
from dni_deploy.errors import BundleError, EngineError, RefusedError, UnavailableError, UsageError
from dni_deploy.utils.install_line import format_install_line
from engines import registry
from engines.interface import EngineOptions
from engines.registry import (
    ENGINES,
    EngineChoice,
    EngineEntry,
    choose_builder,
    choose_engine,
    load_engine,
    open_engine,
    refuse_unused_options,
)
from tests.support.frame_session import Dimmer

AUTO = ("tensorrt", "tensorrt-rtx", "onnxruntime-gpu", "onnxruntime")


def test_auto_tries_engines_in_order() -> None:
    assert tuple(ENGINES) == AUTO


def test_every_registry_entry_is_complete() -> None:
    for entry in ENGINES.values():
        assert entry.title
        module, _, function = entry.opener.partition(":")
        path = Path(*module.split("."))
        root = Path(engines.__file__).parent.parent
        assert (root / path / "__init__.py").exists() or (root / path.with_suffix(".py")).exists()
        assert function.startswith("open_")
        assert bool(entry.build_option_names) == (entry.builder is not None)
        assert set(entry.build_option_names) <= {"threads", "precision", "profile", "strip", "compute_capabilities", "device"}


@pytest.mark.parametrize("name", ["tensorrt-inputs", "tensorrt-constant", "onnxruntime-rebuild", "abacus"])
def test_unknown_or_former_name_lists_the_valid_names(name: str) -> None:
    with pytest.raises(
        UsageError, match=rf"no engine '{name}'; there are auto, tensorrt, tensorrt-rtx, onnxruntime-gpu, onnxruntime\.$"
    ):
        choose_engine(name)


THREE = ("tensorrt", "onnxruntime-gpu", "onnxruntime")
"""Enough of them to see how one is chosen."""


class FakeEngines:
    """Three engines that replace auto's; a test sets each one's unavailable reason and opener."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.unavailable_reasons: dict[str, Any] = dict.fromkeys(THREE)
        self.openers: dict[str, Any] = {name: Dimmer((1.0, 0.0)) for name in THREE}
        self.opened: list[str] = []

        def entry(name: str) -> EngineEntry:
            def obstacle(bundle: object) -> Any:
                reason_or_error = self.unavailable_reasons[name]
                if isinstance(reason_or_error, Exception):
                    raise reason_or_error
                return reason_or_error(bundle) if callable(reason_or_error) else reason_or_error

            builder = None if name == "onnxruntime-gpu" else f"{name}:build"
            return EngineEntry(f"{name}:open", name, obstacle, builder, ("threads",) if builder else ())

        def function(engine: str, name: str) -> Any:
            def open(bundle: object, options: EngineOptions) -> Any:
                self.opened.append(engine)
                made = self.openers[engine]
                if isinstance(made, Exception):
                    raise made
                return made

            return open

        monkeypatch.setattr(registry, "ENGINES", {name: entry(name) for name in THREE})
        monkeypatch.setattr(registry, "import_backend_function", function)


@pytest.fixture
def fake_engines(monkeypatch: pytest.MonkeyPatch) -> FakeEngines:
    return FakeEngines(monkeypatch)


BUNDLE: Any = object()


def test_auto_selects_the_first_available_engine(fake_engines: FakeEngines) -> None:
    assert choose_engine() == EngineChoice("tensorrt", "the first choice")
    fake_engines.unavailable_reasons["tensorrt"] = "no plan is built"
    assert choose_engine() == EngineChoice("onnxruntime-gpu", "not tensorrt: no plan is built")
    fake_engines.unavailable_reasons["onnxruntime-gpu"] = "it lacks a thing"
    assert choose_engine() == EngineChoice(
        "onnxruntime", "not tensorrt: no plan is built; not onnxruntime-gpu: it lacks a thing"
    )
    opened = open_engine(BUNDLE)
    assert (opened.engine, opened.choice) == (fake_engines.openers["onnxruntime"], choose_engine())
    assert load_engine(BUNDLE) is opened.engine


def test_repeated_reason_is_reported_once(fake_engines: FakeEngines) -> None:
    fake_engines.unavailable_reasons["tensorrt"] = fake_engines.unavailable_reasons["onnxruntime-gpu"] = "no driver"
    assert choose_engine().reason == "not tensorrt and onnxruntime-gpu: no driver"
    fake_engines.unavailable_reasons["onnxruntime"] = "no driver"
    with pytest.raises(UnavailableError, match="not tensorrt, onnxruntime-gpu and onnxruntime: no driver"):
        choose_engine()


def test_requested_engine_is_used_or_refused(fake_engines: FakeEngines) -> None:
    assert choose_engine("onnxruntime") == EngineChoice("onnxruntime", "asked for")
    fake_engines.unavailable_reasons["tensorrt"] = "no driver"
    for door in (choose_engine, lambda name: open_engine(BUNDLE, name), choose_builder):
        with pytest.raises(UnavailableError, match=r"^The engine tensorrt cannot run here: no driver\.$"):
            door("tensorrt")
        with pytest.raises(UsageError, match="no engine 'abacus'"):
            door("abacus")
    assert fake_engines.opened == []


def test_no_available_engine_is_an_error(fake_engines: FakeEngines) -> None:
    for name in THREE:
        fake_engines.unavailable_reasons[name] = f"{name} is absent"
    for door in (choose_engine, choose_builder, lambda: open_engine(BUNDLE)):
        with pytest.raises(UnavailableError, match=r"No engine can run here; not tensorrt: .*onnxruntime is absent\. .*doctor"):
            door()


@pytest.mark.parametrize(
    "broken", [RuntimeError("odd\nline"), OSError("libnvinfer.so.11"), ImportError("x"), RefusedError("It is somebody else's.")]
)
def test_failing_availability_check_makes_the_engine_unavailable(fake_engines: FakeEngines, broken: Exception) -> None:
    fake_engines.unavailable_reasons["tensorrt"] = broken
    choice = choose_engine()
    assert choice.name == "onnxruntime-gpu"
    assert choice.reason.startswith("not tensorrt: ")
    assert "\n" not in choice.reason
    assert not choice.reason.endswith(".")


def test_opener_with_a_missing_dependency_is_skipped(fake_engines: FakeEngines) -> None:
    fake_engines.openers["tensorrt"] = UnavailableError("The engine tensorrt cannot run here: ImportError, libnvinfer.so.11.")
    fake_engines.openers["onnxruntime-gpu"] = UnavailableError("libcudnn.so.9 is missing.")
    opened = open_engine(BUNDLE)
    assert fake_engines.opened == list(THREE)
    assert opened.choice == EngineChoice(
        "onnxruntime", "not tensorrt: ImportError, libnvinfer.so.11; not onnxruntime-gpu: libcudnn.so.9 is missing"
    )
    with pytest.raises(UnavailableError, match="libcudnn"):  # requested by name, it is an error
        open_engine(BUNDLE, "onnxruntime-gpu")


def test_failed_verification_is_never_skipped(fake_engines: FakeEngines) -> None:
    fake_engines.openers["tensorrt"] = EngineError("Its output is 0.3 away from the reference.")
    with pytest.raises(EngineError, match=r"0\.3 away from the reference\. This is what auto chose; .*--engine"):
        open_engine(BUNDLE)
    assert fake_engines.opened == ["tensorrt"]


def test_engine_error_in_the_availability_check_is_never_skipped(fake_engines: FakeEngines) -> None:
    """Looking for a plan lowers the graph, which may fail; that is an engine error, not a missing engine."""
    fake_engines.unavailable_reasons["tensorrt"] = EngineError("The graph cannot be lowered.")
    for entry_point in (choose_engine, choose_builder, lambda: open_engine(BUNDLE)):
        with pytest.raises(EngineError, match=r"cannot be lowered\. This is what auto chose; .*--engine"):
            entry_point()


@pytest.mark.parametrize("error", [BundleError("damaged"), RefusedError("another's"), UsageError("no"), MemoryError()])
def test_unexpected_error_is_never_skipped(fake_engines: FakeEngines, error: Exception) -> None:
    fake_engines.openers["tensorrt"] = error
    with pytest.raises(type(error)):
        open_engine(BUNDLE)
    assert fake_engines.opened == ["tensorrt"]


def test_build_does_not_require_an_existing_plan(fake_engines: FakeEngines) -> None:
    fake_engines.unavailable_reasons["tensorrt"] = lambda bundle: None if bundle is None else "no plan is built"
    assert choose_engine("auto", BUNDLE).name == "onnxruntime-gpu"
    assert choose_builder() == EngineChoice("tensorrt", "the first choice")
    fake_engines.unavailable_reasons["tensorrt"] = "no TensorRT"
    assert choose_builder() == EngineChoice(
        "onnxruntime", "not tensorrt: no TensorRT; not onnxruntime-gpu: it has nothing to build ahead"
    )
    with pytest.raises(UsageError, match=r"onnxruntime-gpu has nothing to build ahead; these have: tensorrt, onnxruntime\."):
        choose_builder("onnxruntime-gpu")


def test_failing_package_import_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken_engine.py").write_text("raise ImportError('libnvinfer.so.11: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    entry = replace(ENGINES["tensorrt"], opener="broken_engine:open", unavailable_reason=lambda bundle: None)
    monkeypatch.setattr(registry, "ENGINES", {**ENGINES, "tensorrt": entry, "onnxruntime-gpu": entry})
    with pytest.raises(UnavailableError, match=r"^The engine tensorrt cannot run here: ImportError, libnvinfer.so.11: cannot"):
        open_engine(BUNDLE, "tensorrt")


def test_unused_options_are_refused() -> None:
    refuse_unused_options(EngineChoice("tensorrt", "asked for"), ["precision", "profile", "strip", "device"])
    refuse_unused_options(EngineChoice("onnxruntime", "asked for"), ["threads"])
    with pytest.raises(
        UsageError,
        match=r"for the engine onnxruntime has no use for precision and strip; that is for tensorrt, tensorrt-rtx\.$",
    ):
        refuse_unused_options(EngineChoice("onnxruntime", "asked for"), ["precision", "strip"])
    with pytest.raises(
        UsageError, match=r"no use for threads; that is for onnxruntime\. It was chosen because: the first choice\.$"
    ):
        refuse_unused_options(EngineChoice("tensorrt", "the first choice"), ["threads"])


def test_unknown_engine_and_missing_package_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UsageError,
        match=r"no engine 'vulkan'; there are auto, tensorrt, tensorrt-rtx, onnxruntime-gpu, onnxruntime; did you mean 'auto'\?",
    ):
        choose_engine("vulkan")
    monkeypatch.setattr("engines.registry.find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"pip install .*\[cpu\]"):
        choose_engine("onnxruntime")
    with pytest.raises(UnavailableError, match=r"No engine can run"):
        choose_engine()


def test_the_choice_and_each_skipped_engine_are_logged(fake_engines: FakeEngines, caplog: pytest.LogCaptureFixture) -> None:
    fake_engines.unavailable_reasons["tensorrt"] = "no driver"
    fake_engines.openers["onnxruntime-gpu"] = UnavailableError("libcudnn.so.9 is missing.")
    with caplog.at_level(logging.INFO, "engines"):
        open_engine(BUNDLE)
    assert [record.levelno for record in caplog.records] == [logging.INFO] * 3
    skipped, late, chosen = caplog.messages
    assert skipped == "engine tensorrt skipped: no driver"
    assert late == "engine onnxruntime-gpu skipped: libcudnn.so.9 is missing"
    assert re.match(r"engine onnxruntime opened in \d+\.\d\d s \(not tensorrt: no driver; not onnxruntime-gpu: ", chosen)


# ----- unavailable reasons


def test_unavailable_reasons_are_in_order_of_resolution(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("engines.cuda.driver.why_gpu_unavailable", lambda: "no driver")
    assert registry.why_tensorrt_unavailable(None) == registry.why_onnxruntime_gpu_unavailable(None) == "no driver"
    monkeypatch.setattr("engines.cuda.driver.why_gpu_unavailable", lambda: None)
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    assert registry.why_tensorrt_unavailable(None) == (
        f"tensorrt and polygraphy not installed: {format_install_line('tensorrt')}"
    )
    assert registry.why_onnxruntime_gpu_unavailable(None) == f"onnxruntime not installed: {format_install_line('gpu')}"

    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(registry, "find_spec", lambda name: Spec())
    monkeypatch.setattr("engines.cuda.driver.find_spec", lambda name: None)
    monkeypatch.delenv("DNI_CUDA", raising=False)
    neither = f"neither pycuda nor cuda-bindings installed: {format_install_line('gpu')}"
    assert registry.why_tensorrt_unavailable(None) == registry.why_onnxruntime_gpu_unavailable(None) == neither
    monkeypatch.setattr("engines.cuda.driver.find_spec", lambda name: Spec())
    assert "no CUDA provider" in str(registry.why_onnxruntime_gpu_unavailable(None))
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / registry.CUDA_PROVIDER_LIBRARIES[0]).touch()
    assert registry.why_onnxruntime_gpu_unavailable(None) is None
    assert registry.why_tensorrt_unavailable(None) is None


def test_choosing_imports_no_engine() -> None:
    """Importing a broken package can crash the process."""
    code = (
        "import sys; from engines.cuda import driver; driver.why_gpu_unavailable = lambda: None\n"
        "from engines.registry import ENGINES; [entry.unavailable_reason(None) for entry in ENGINES.values()]\n"
        "print({'onnxruntime', 'tensorrt', 'pycuda', 'cuda.bindings', 'polygraphy', 'onnx', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n", done.stderr
