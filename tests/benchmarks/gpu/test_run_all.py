"""The runner of all checks and measurements: with small programs as steps, and every step of its own on the fake GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import __main__, modes, run_all
from benchmarks.gpu import result as results
from benchmarks.gpu.case import NOT_REACHED_REASON
from benchmarks.gpu.prepare import prepare
from benchmarks.gpu.run_all import Step, StepRecord, find_faults, format_last_line
from engines.cuda import driver
from tests.support.pico_architectures import pico_net
from tests.support.run_on_fake_gpu import launcher

ROOT = Path(__file__).parents[3]
NETWORKS = ("compact", "dncnn", "rrdb")
"""What is measured; the smallest network of the tests is in the place of each."""
UNUSED_FOLDERS = ("docs", "benchmarks/paper_reproduction", "benchmarks/results", "dni_deploy/data")
"""Folders that a GPU machine gets no copy of."""


def python_step(name: str, code: str, limit_s: float = 60.0, **more: Any) -> Step:
    return Step(name, (("-c", code),), limit_s, **more)


@pytest.fixture
def run_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs steps as one call of the program with these arguments; returns its exit code and last line."""
    monkeypatch.setattr(run_all, "LAUNCHER", (sys.executable,))
    monkeypatch.setattr(run_all, "CLOSE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(driver, "why_gpu_unavailable", lambda: None)

    def run(capsys: pytest.CaptureFixture[str], *steps: Step, arguments: tuple[str, ...] = ()) -> tuple[int, str]:
        monkeypatch.setattr(run_all, "list_steps", lambda: list(steps))
        monkeypatch.setattr(run_all, "list_all_steps", lambda: list(steps))
        code = run_all.main(["--prepared", str(tmp_path), "-o", str(tmp_path / "out"), "--commit", "c", *arguments])
        return code, capsys.readouterr().out.splitlines()[-1]

    return run


def test_a_crash_or_a_hang_of_one_step_costs_the_others_nothing(
    run_steps: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = run_steps(
        capsys,
        python_step("hangs", "import time; print('begun', flush=True); time.sleep(60)", limit_s=1.0),
        python_step("crashes", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
        python_step("absent", "", unavailable_reason="it is not installed"),
        python_step("right", "print('fine')"),
        python_step("long", "", limit_s=2000.0),
        arguments=("--budget", "100"),
    )
    assert code == 1
    assert line.startswith("ran 3 of 5 steps in ")
    assert line.endswith(" s: 1 passed, 2 failed (hangs, crashes), 2 not run (absent: it is not installed; long: no time)")
    out = tmp_path / "out"
    assert "begun" in (out / "hangs.log").read_text()
    summary = json.loads((out / "steps.json").read_text())
    assert summary["hangs"]["reason"] == "ended after 1 s"
    assert summary["crashes"]["reason"] == "ended with -9"
    whole = results.read(out / "all.json")
    assert {check["name"]: check["passed"] for check in whole["checks"]} == {"hangs": False, "crashes": False, "right": True}
    assert whole["checks"][-1]["lines"][-1] == "fine"
    assert len(whole["parts"]) == 1
    assert whole["parts"][0]["commit"] == "c"


def test_a_second_call_leaves_out_what_passed(run_steps: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = f"open({str(tmp_path / 'count')!r}, 'a').write('x')"
    steps = (python_step("counts", count), python_step("fails", "raise SystemExit(3)"))
    assert run_steps(capsys, *steps)[0] == 1
    for _ in range(2):
        code, line = run_steps(capsys, *steps)
        assert code == 1
        assert line.startswith("ran 1 of 2 steps")
        assert line.endswith("0 passed, 1 passed before, 1 failed (fails)")
    assert (tmp_path / "count").read_text() == "x"
    assert {check["name"] for check in results.read(tmp_path / "out" / "all.json")["checks"]} == {"counts", "fails"}
    assert run_steps(capsys, *steps, arguments=("--only", "counts"))[0] == 0
    assert (tmp_path / "count").read_text() == "xx"
    assert run_steps(capsys, *steps, arguments=("--only", "fails"))[0] == 1
    assert run_steps(capsys, *steps)[1].endswith("0 passed, 1 passed before, 1 failed (fails)")  # --only forgets nothing


@pytest.mark.slow
def test_processes_that_a_step_started_end_with_it(run_steps: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    run_steps(capsys, python_step("starts another", code, limit_s=2.0))
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_build_may_not_take_the_time_of_the_measurement(
    run_steps: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Step("two", (("-c", "import time; time.sleep(60)"), ("-c", "print('second')")), 2.0)
    assert run_steps(capsys, step)[0] == 1
    assert "second" in (tmp_path / "out" / "two.log").read_text()
    assert json.loads((tmp_path / "out" / "steps.json").read_text())["two"]["reason"] == "ended after 1 s"


def test_rows_that_are_missing_for_another_reason_than_time_are_faults() -> None:
    result = results.make_empty_result({}, "c")
    result["cases"] = [{"rows": [{}], "skipped": {"a": "wrong: it differs", "b": NOT_REACHED_REASON, "c": "not installed"}}]
    assert find_faults(result, ("a", "b")) == ["a: wrong: it differs"]
    result["cases"][0]["rows"] = []
    assert find_faults(result, ("b",)) == ["nothing was measured"]


def test_the_last_line_names_reasons_once() -> None:
    records = {"a": StepRecord("passed"), "b": StepRecord("not run", "no time"), "c": StepRecord("not run", "no time")}
    assert format_last_line(records, 4.2) == "ran 1 of 3 steps in 4 s: 1 passed, 2 not run (b, c: no time)"


def test_command_lines_that_cannot_run_end_with_a_reason(
    run_steps: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--prepared", str(tmp_path), "-o", str(tmp_path / "out")]
    monkeypatch.undo()
    if driver.why_gpu_unavailable() is not None:
        assert run_all.main(command) == 7
        assert "no NVIDIA driver" in capsys.readouterr().err
    monkeypatch.setattr(driver, "why_gpu_unavailable", lambda: None)
    assert run_all.main([*command, "--only", "nonsense"]) == 2
    assert "there are kernels, kernel-bandwidth, tensorrt-rtx, tensorrt, compact-1280x720-fp16" in capsys.readouterr().err


def test_steps_are_valid_commands_in_order_of_importance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where everything is there: each row exists, and each library's plans are built in a process of their own."""
    everything = tuple(replace(mode, unavailable_reason=lambda: None) for mode in modes.GPU_BACKEND_MODES)
    monkeypatch.setattr(modes, "GPU_BACKEND_MODES", everything)
    steps = run_all.list_all_steps()
    assert [step.name for step in steps[:10]] == [
        "kernels", "kernel-bandwidth", "tensorrt-rtx", "tensorrt", "compact-1280x720-fp16", "dncnn-1280x720-fp16",
        "rrdb-1280x720-fp16", "onnxruntime-gpu", "onnxruntime-gpu-precisions", "compact-1920x1080-fp16",
    ]  # fmt: skip
    assert len({step.name for step in steps}) == len(steps) == 10 + 24 - 4
    names = {mode.name for mode in everything}
    for step in steps:
        for module, *arguments in step.commands:
            assert (ROOT / (module.replace(".", "/") + ".py")).exists() or module == "benchmarks.gpu"
            if module == "benchmarks.gpu":
                options = __main__.make_parser().parse_args(arguments)
                assert set(options.rows.split(",")) <= names | {"kernel"}
    builds = [command for command in steps[4].commands if command[-1] == "--build-only"]
    assert [command[-2] for command in builds] == [
        ",".join(f"{library}{suffix}" for suffix in ("", "-constant", "-ahead", "-inputs"))
        for library in ("tensorrt", "tensorrt-rtx")
    ]
    assert set(run_all.FRAME_ROWS) <= names


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    for name in NETWORKS:
        prepare(folder, name, title=name, build=lambda: pico_net("dncnn_bn"))
    return folder


def run_on_fake_gpu(root: Path, prepared: Path, out: Path, version: str, *arguments: str) -> str:
    """Runs the program and all that it starts on the fake GPU; returns its last line."""
    command = [*launcher(version), "benchmarks.gpu.run_all", "--prepared", str(prepared), "-o", str(out), "--seconds", "0.05"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([*command, *arguments], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_frames_are_built_and_timed_on_the_fake_gpu(prepared: Path, tmp_path: Path) -> None:
    line = run_on_fake_gpu(ROOT, prepared, tmp_path, "rtx-1.7", "--only", "compact-1280x720-fp16")
    assert line.startswith("ran 1 of 1 steps")
    (case,) = results.read(tmp_path / "all.json")["cases"]
    rows = {row["name"]: row for row in case["rows"]}
    assert set(rows) == {
        "tensorrt-rtx",
        "tensorrt-rtx-constant",
        "tensorrt-rtx-ahead",
        "tensorrt-rtx-inputs",
        "onnxruntime-gpu",
    }
    assert rows["tensorrt-rtx-ahead"]["disturbed_over_steady"] > 0


@pytest.mark.slow
def test_programs_import_with_the_packages_of_a_gpu_machine() -> None:
    """The image of one has PyTorch, ONNX, ONNX Runtime, cuda-bindings, pytest and what the commands need, and not these."""
    modules = sorted({command[0] for step in run_all.list_all_steps() for command in step.commands})
    assert len(modules) == 4
    absent = (
        "av",
        "onnxscript",
        "onnx_ir",
        "spandrel",
        "scipy",
        "skimage",
        "matplotlib",
        "openvino",
        "mido",
        "pycuda",
        "websockets",
    )
    code = f"""if True:
        import importlib, sys
        sys.modules.update(dict.fromkeys({absent!r}))
        import pytest
        from tests.fakes.gpu import install
        with pytest.MonkeyPatch.context() as monkeypatch:
            install(monkeypatch, tensorrt="rtx-1.7", cuda="cuda-bindings")
            for name in ("benchmarks.gpu.__main__", "benchmarks.gpu.torch_peers", "benchmarks.gpu.kernel", *{modules!r}):
                importlib.import_module(name)
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("version", "only"), [("rtx-1.7", None), ("11.4", "tensorrt,dncnn-1280x720-fp16")])
def test_every_step_runs_on_the_fake_gpu_from_a_tree_without_large_folders(
    version: str, only: str | None, prepared: Path, tmp_path: Path
) -> None:
    root = tmp_path / "tree"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-c", "-o", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in listed.stdout.decode().split("\0"):
        if name and not name.startswith(tuple(f"{folder}/" for folder in UNUSED_FOLDERS)) and (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes((ROOT / name).read_bytes())
    line = run_on_fake_gpu(root, prepared, tmp_path / "out", version, *(() if only is None else ("--only", only)))
    if only is None:
        assert line.startswith("ran 9 of 10 steps")
        assert "9 passed, 1 not run (tensorrt: tensorrt not installed: pip install " in line
    else:
        assert line.startswith("ran 2 of 2 steps")
