"""The GPU benchmark without a GPU: prepared networks, checks, simulated times, JSON and the page."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu import __main__, modes
from benchmarks.gpu import result as results
from benchmarks.gpu.case import run_case
from benchmarks.gpu.check import Agreement, describe_fault, measure_agreement
from benchmarks.gpu.measurement import Measurement
from benchmarks.gpu.modes import GpuBackendMode
from benchmarks.gpu.prepare import prepare
from benchmarks.gpu.prepared import PreparedNetwork, read_expected_outputs
from benchmarks.gpu.random_weights import MEMBER_DISTANCE, make_random_family
from benchmarks.gpu.torch_peers import FlatWeights, Float32Ends, TorchPeer, compute_expected_outputs
from benchmarks.page import page
from dni_deploy.blending.blend import blend_float64
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import InputError
from dni_deploy.utils.install_line import format_install_line
from engines import ort_session
from engines.interface import PRECISIONS
from tests.fakes.gpu import FakeGpu
from tests.support.pico_architectures import pico_net
from tests.support.simulated_clock import CHANGE, DOWNLOAD, FRAME, UPLOAD, KnownClock, KnownEngine, Machine, is_main_thread

NETWORK = "dncnn_bn"
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreparedNetwork]:
    folder = tmp_path_factory.mktemp("prepared")
    return folder, prepare(folder, "pico", title="Pico", build=lambda: pico_net(NETWORK))


@pytest.fixture
def bundle(prepared: tuple[Path, PreparedNetwork], tmp_path: Path) -> Bundle:
    return PreparedNetwork.load(prepared[0], "pico").bundle(tmp_path / "pico.dni")


def test_prepared_network_is_saved_without_weights_and_loads_equal(
    prepared: tuple[Path, PreparedNetwork], bundle: Bundle
) -> None:
    folder, network = prepared
    loaded = PreparedNetwork.load(folder, "pico")
    assert loaded.graph == network.graph
    assert (loaded.signature, loaded.shapes, loaded.weights_sha256) == (
        network.signature,
        network.shapes,
        network.weights_sha256,
    )
    assert (folder / "pico.onnx").stat().st_size < 20_000
    assert all(not tensor.raw_data for tensor in loaded.graph.graph.initializer if tensor.name in loaded.shapes)
    assert set(bundle.weight_names) == set(loaded.shapes)
    for member, state in loaded.states().items():
        for name, value in bundle.read_weights(member).items():
            np.testing.assert_array_equal(value, state[name])
    assert loaded.bundle(bundle.path).digest == bundle.digest  # a second call opens the existing bundle


def test_expected_outputs_match_the_bundle(prepared: tuple[Path, PreparedNetwork], bundle: Bundle) -> None:
    expected = read_expected_outputs(prepared[0], "pico")
    members = [bundle.read_weights(member) for member in bundle.members]
    for name, coefficients in (("mixed", [0.35, 0.65]), ("first", [1.0, 0.0]), ("second", [0.0, 1.0])):
        output = ort_session.run_session(
            ort_session.open_cpu_session(bundle.read_graph_with_weights(blend_float64(members, np.array(coefficients))), 1),
            expected["x"],
        )
        assert np.abs(output - expected[name]).max() <= 1e-5 * np.abs(expected[name]).max()  # float32 against float64


def test_random_members_stay_close_and_variances_stay_positive() -> None:
    shapes = {"c.weight": (16, 8, 3, 3), "c.bias": (16,), "b.weight": (16,), "b.bias": (16,), "b.running_var": (16,)}
    states = make_random_family(shapes, members=3, seed=4)
    first, second = states["m0"], states["m1"]
    moved = np.std(first["c.weight"] - second["c.weight"]) / np.std(first["c.weight"])
    assert 0.7 * MEMBER_DISTANCE < moved < 1.4 * MEMBER_DISTANCE
    assert all(float(state["b.running_var"].min()) > 0 for state in states.values())
    again = make_random_family(shapes, members=3, seed=4)
    assert all(np.array_equal(states[m][n], again[m][n]) for m in states for n in shapes)


def test_weights_that_differ_from_the_prepared_digest_are_an_error(
    prepared: tuple[Path, PreparedNetwork], tmp_path: Path
) -> None:
    for path in prepared[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    facts = json.loads((tmp_path / "pico.json").read_text())
    (tmp_path / "pico.json").write_text(json.dumps({**facts, "seed": facts["seed"] + 1}))
    with pytest.raises(InputError, match="come out differently"):
        PreparedNetwork.load(tmp_path, "pico").bundle(tmp_path / "x.dni")
    with pytest.raises(InputError, match="--prepare"):
        PreparedNetwork.load(tmp_path, "nothing")


def make_known_mode(machine: Machine, name: str, engines: list[KnownEngine], **options: Any) -> GpuBackendMode:
    def open_mode(bundle: Bundle, precision: str) -> KnownEngine:
        engine_options = {key: options[key] for key in ("slots", "scale", "frame") if key in options}
        engines.append(KnownEngine(machine, bundle, **engine_options))
        return engines[-1]

    mode_options = {key: options[key] for key in ("changes_alpha", "async_refit", "slow") if key in options}
    return GpuBackendMode(name, f"mode {name}", open_mode, options.get("obstacle", lambda: None), **mode_options)


@pytest.fixture
def case(
    prepared: tuple[Path, PreparedNetwork], bundle: Bundle
) -> tuple[dict[str, Any], list[KnownEngine], list[dict[str, Any]]]:
    machine, engines, kept_cases = Machine(), list[KnownEngine](), list[dict[str, Any]]()
    chosen = [
        make_known_mode(machine, "tensorrt", engines),
        make_known_mode(machine, "tensorrt-constant", engines, changes_alpha=False, frame=FRAME / 2),
        make_known_mode(machine, "tensorrt-ahead", engines, slots=2, async_refit=True),
        make_known_mode(machine, "tensorrt-inputs", engines, scale=1.01),
        make_known_mode(machine, "onnxruntime-gpu", engines, obstacle=lambda: "there is none"),
        make_known_mode(machine, "torch-compile", engines, frame=FRAME * 2, slow=True),
    ]
    result = run_case(
        prepared[1], prepared[0], bundle, (720, 1280), "fp16", chosen, KnownClock(machine), seconds=1.0, keep=kept_cases.append
    )
    return result, engines, kept_cases


def test_case_reports_the_simulated_times(case: tuple[dict[str, Any], list[KnownEngine], list[dict[str, Any]]]) -> None:
    rows = {row["name"]: row for row in case[0]["rows"]}
    assert list(rows) == ["tensorrt", "tensorrt-constant", "tensorrt-ahead", "torch-compile"]
    ms = 1e3
    plain, ahead, constant = rows["tensorrt"], rows["tensorrt-ahead"], rows["tensorrt-constant"]
    assert plain["steady_ms"] == pytest.approx(FRAME * ms)
    assert plain["change_ms"] == plain["host_change_ms"] == pytest.approx(CHANGE * ms)
    assert plain["first_ms"] == plain["host_steady_ms"] == pytest.approx(FRAME * ms)
    assert plain["host_changed_ms"] == pytest.approx((FRAME + CHANGE) * ms)
    assert plain["host_frame_ms"] == pytest.approx((UPLOAD + FRAME + DOWNLOAD) * ms)
    assert plain["host_pixels_ms"] == plain["host_overlapped_ms"] == pytest.approx(FRAME * ms)
    assert case[0]["pcie_bytes"] == {"pixels": 2 * 720 * 1280 * 3, "float32": 8 * 720 * 1280 * 3}
    assert plain["changed_over_steady"] == pytest.approx((FRAME + CHANGE) / FRAME)
    assert ahead["changed_over_steady"] == pytest.approx(1.0)  # hidden behind the frame
    assert constant["change_ms"] is None
    assert constant["changed_over_steady"] is None
    assert constant["agreement"]["returns"] is None
    assert plain["agreement"]["returns"] is True
    assert plain["rounds"] >= 3
    assert case[0]["ratios"]["steady, tensorrt / tensorrt-constant"] == pytest.approx(2.0)
    assert case[0]["ratios"]["steady, tensorrt / torch-compile"] == pytest.approx(0.5)


def test_wrong_or_unavailable_mode_is_not_timed(
    case: tuple[dict[str, Any], list[KnownEngine], list[dict[str, Any]]],
) -> None:
    result, engines, kept_cases = case
    assert result["skipped"]["onnxruntime-gpu"] == "there is none"
    assert result["skipped"]["tensorrt-inputs"].startswith("wrong: it differs from PyTorch by 1.0e-02")
    assert result["wrong"]["tensorrt-inputs"]["error"] == pytest.approx(0.01, rel=1e-2)
    assert all(engine.closed for engine in engines)
    # The other modes are saved before the slow one is opened.
    assert [row["name"] for row in kept_cases[0]["rows"]] == ["tensorrt", "tensorrt-constant", "tensorrt-ahead"]
    assert "not reached" in kept_cases[0]["skipped"]["torch-compile"]
    json.dumps(result, allow_nan=False)


def test_no_engine_is_opened_after_the_budget_is_spent(prepared: tuple[Path, PreparedNetwork], bundle: Bundle) -> None:
    machine, engines = Machine(), list[KnownEngine]()
    chosen = [make_known_mode(machine, "tensorrt", engines)]
    result = run_case(prepared[1], prepared[0], bundle, (64, 64), "fp32", chosen, KnownClock(machine), budget=0.0)
    assert not engines
    assert not result["rows"]
    assert "not reached" in result["skipped"]["tensorrt"]


@pytest.mark.parametrize(
    ("agreement", "precision", "is_fault"),
    [
        (Agreement((1,), 9e-5, 90.0, True), "fp32", False),
        (Agreement((1,), 2e-4, 90.0, True), "fp32", True),
        (Agreement((1,), float("nan"), 90.0, True), "fp32", True),
        (Agreement((1,), 4e-3, 55.0, True), "fp16", False),
        (Agreement((1,), 4e-3, 49.0, True), "fp16", True),
        (Agreement((1,), 5.3e-3, 59.0, True), "fp16", False),  # rounding, as the verification of an engine has it
        (Agreement((1,), 5.3e-3, 55.0, True), "fp16", True),
        (Agreement((1,), 2e-2, 59.0, True), "fp16", True),
        (Agreement((1,), 0.0, None, True), "fp16", False),
    ],
)
def test_disagreement_above_the_limit_is_a_fault(agreement: Agreement, precision: str, is_fault: bool) -> None:
    assert (describe_fault(agreement, precision) is not None) == is_fault


class BlockingEngine(KnownEngine):
    """A refit that keeps the host until it has ended, which takes it 3 ms more."""

    def refit(self, slot: int, coefficients: Any) -> None:
        super().refit(slot, coefficients)
        self.synchronize(slot)
        if is_main_thread():
            self.machine.now += 3e-3


class StallingEngine(KnownEngine):
    """A refit of slot 1 from another thread holds up slot 0 by 2 ms: one such refit for each frame that the main thread queues."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.wanted, self.made, self.is_beside = threading.Semaphore(0), threading.Semaphore(0), False

    def refit(self, slot: int, coefficients: Any) -> None:
        if is_main_thread():
            self.is_beside = False
        elif not self.is_beside:
            self.is_beside = True  # the first one, for which the benchmark waits
        elif self.wanted.acquire(timeout=0.1):
            self.machine.queue(self.stream_handle(0), 2e-3)
            self.made.release()
        super().refit(slot, coefficients)

    def enqueue(self, slot: int) -> None:
        if self.is_beside and slot == 0:
            self.wanted.release()
            assert self.made.acquire(timeout=10)
        super().enqueue(slot)


def run_two_slots(
    prepared: tuple[Path, PreparedNetwork], bundle: Bundle, engine: type[KnownEngine], slots: int = 2
) -> dict[str, Any]:
    machine = Machine()
    mode = GpuBackendMode(
        "tensorrt-ahead", "", lambda bundle, _: engine(machine, bundle, slots=slots), lambda: None, async_refit=slots > 1
    )
    return run_case(prepared[1], prepared[0], bundle, (720, 1280), "fp32", [mode], KnownClock(machine), seconds=1.0)


def test_a_refit_that_returns_at_once_and_disturbs_nobody(prepared: tuple[Path, PreparedNetwork], bundle: Bundle) -> None:
    case = run_two_slots(prepared, bundle, KnownEngine)
    (row,) = case["rows"]
    assert row["host_refit_ms"] == row["host_refit_p99_ms"] == 0
    assert row["refit_over_frame"] == pytest.approx(CHANGE / FRAME)
    assert row["undisturbed_ms"] == row["disturbed_ms"] == pytest.approx(FRAME * 1e3)
    for name in ("disturbed_over_steady", "disturbed_p99_over_steady", "undisturbed_p99_over_steady"):
        assert row[name] == pytest.approx(1.0)
    (goal,) = find_neighbor_goals(case)
    assert goal["reached"]


def find_neighbor_goals(case: dict[str, Any]) -> list[dict[str, Any]]:
    whole = results.merge_results([{**results.make_empty_result({}, "c"), "cases": [case]}])
    return [goal for goal in whole["goals"] if goal["figure"].startswith("frame of slot 0 beside refits of slot 1")]


@pytest.mark.parametrize("slots", [1, 2])
def test_a_refit_that_blocks_the_host_shows_as_host_time(
    slots: int, prepared: tuple[Path, PreparedNetwork], bundle: Bundle
) -> None:
    case = run_two_slots(prepared, bundle, BlockingEngine, slots)
    (row,) = case["rows"]
    # A refit waits for the frames in its own slot (at least one) or for itself alone.
    blocked = (CHANGE + 3e-3 + (FRAME if slots == 1 else 0)) * 1e3
    assert row["host_refit_ms"] == row["host_refit_p99_ms"] == pytest.approx(blocked)
    assert row["change_ms"] >= CHANGE * 1e3  # the events see the GPU, which then waits for the host
    assert (row["disturbed_over_steady"] is None) == (slots == 1)
    assert not any(goal["measured"] > 1.001 for goal in find_neighbor_goals(case))


def test_a_refit_that_stalls_the_other_stream_shows_in_its_frames(
    prepared: tuple[Path, PreparedNetwork], bundle: Bundle
) -> None:
    case = run_two_slots(prepared, bundle, StallingEngine)
    (row,) = case["rows"]
    assert row["undisturbed_ms"] == pytest.approx(FRAME * 1e3)
    assert row["disturbed_ms"] == pytest.approx((FRAME + 2e-3) * 1e3)
    assert row["disturbed_over_steady"] == row["disturbed_p99_over_steady"] == pytest.approx((FRAME + 2e-3) / FRAME)
    assert row["undisturbed_p99_over_steady"] == pytest.approx(1.0)
    (goal,) = find_neighbor_goals(case)
    assert not goal["reached"]
    assert "99th percentile 1.25, undisturbed 1.00" in goal["what"]
    whole = results.merge_results([{**results.make_empty_result({"gpu": "Known"}, "c"), "cases": [case]}])
    assert "| 1.25 | 1.25 | 1 |" in page(cpu_result(), whole)
    assert "     1.250     1.250  error" in results.format_short_table(whole)


class FailingBesideEngine(KnownEngine):
    def refit(self, slot: int, coefficients: Any) -> None:
        if not is_main_thread():
            raise ValueError("no refit from a thread")
        super().refit(slot, coefficients)


def test_a_refit_that_fails_beside_frames_fails_the_mode(prepared: tuple[Path, PreparedNetwork], bundle: Bundle) -> None:
    case = run_two_slots(prepared, bundle, FailingBesideEngine)
    assert not case["rows"]
    assert case["skipped"]["tensorrt-ahead"] == "failed while it was timed: ValueError: no refit from a thread"


class NaNEngine(KnownEngine):
    def infer(self, slot: int, x: Any) -> Any:
        return super().infer(slot, x) * np.float32("nan")


def test_nan_output_is_a_fault(prepared: tuple[Path, PreparedNetwork], bundle: Bundle) -> None:
    machine = Machine()
    mode = GpuBackendMode("tensorrt", "NaN", lambda bundle, precision: NaNEngine(machine, bundle), lambda: None)
    result = run_case(prepared[1], prepared[0], bundle, (64, 64), "fp16", [mode], KnownClock(machine))
    assert "wrong" in result["skipped"]["tensorrt"]
    json.dumps(results.merge_results([{**results.make_empty_result({}, "c"), "cases": [result]}]), allow_nan=False)


class FailingEngine(KnownEngine):
    left = 45

    def enqueue(self, slot: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise ValueError("out of order")
        super().enqueue(slot)


@pytest.mark.parametrize("enqueues_left", [0, 1, 45])
def test_mode_that_fails_during_timing_is_skipped_and_others_are_timed(
    prepared: tuple[Path, PreparedNetwork], bundle: Bundle, enqueues_left: int
) -> None:
    machine, engines, messages = Machine(), list[KnownEngine](), list[str]()

    def open_failing(bundle: Bundle, precision: str) -> FailingEngine:
        engines.append(FailingEngine(machine, bundle))
        engines[-1].left = enqueues_left  # type: ignore[attr-defined]
        return engines[-1]  # type: ignore[return-value]

    modes = [
        GpuBackendMode("tensorrt", "breaks", open_failing, lambda: None),
        make_known_mode(machine, "onnxruntime-gpu", engines),
    ]
    result = run_case(
        prepared[1], prepared[0], bundle, (64, 64), "fp32", modes, KnownClock(machine), seconds=1.0, report=messages.append
    )
    assert [row["name"] for row in result["rows"]] == ["onnxruntime-gpu"]
    assert result["skipped"]["tensorrt"] == "failed while it was timed: ValueError: out of order"
    assert any("Traceback" in text for text in messages)
    assert all(engine.closed for engine in engines)
    assert len(result["ratios"]) == 0


def figure(network: str, label: str, over: float, **more: Any) -> dict[str, Any]:
    return {
        "part": 0, "network": network, "label": label, "precision": "fp16", "as_in_cases": True, "bytes": 10**8, "launched_us": 30.0,
        "replayed_us": 1500.0, "bytes_per_second": 4e12, "over_copy": over, "over_copy_of_same_bytes": 1.0,
        "by_row_over_plain_launched": 1.25, **more,
    }  # fmt: skip


def test_goals_and_page_match_the_merged_result(
    case: tuple[dict[str, Any], list[KnownEngine], list[dict[str, Any]]], tmp_path: Path
) -> None:
    ours = results.make_empty_result({"gpu": "Known", "date": "2026-01-01"}, "abc")
    ours["parts"][0]["ceilings"] = {"copy": 4.4e12, "products": {"fp16": 8e14}}
    ours["checks"] = [{"part": 0, "name": "kernels", "command": "tests.it", "passed": False, "seconds": 8.2, "lines": ["no"]}]
    ours["kernel"] = [figure("rrdb", "RRDB", 0.5), figure("large", "large", 0.95), figure("pico", "Pico", 0.1)]
    inputs = {**case[0]["rows"][0], "name": "tensorrt-inputs"}
    theirs = results.make_empty_result({"gpu": "Known", "torch": "9"}, "abc")
    compiled = {**case[0]["rows"][-1], "steady_ms": 4.0}
    theirs["cases"] = [{**case[0], "rows": [compiled], "ratios": {}}]
    ours["cases"] = [{**case[0], "rows": [row for row in case[0]["rows"] if "torch" not in row["name"]] + [inputs]}]
    results.write(tmp_path / "a.json", ours)
    results.write(tmp_path / "b.json", theirs)
    assert __main__.main(["--merge", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "-o", str(tmp_path / "c.json")]) == 0
    whole = results.read(tmp_path / "c.json")
    assert [part["machine"].get("torch") for part in whole["parts"]] == [None, "9"]
    goals = {
        goal["figure"].split(",")[0] + (goal["what"] if "kernel's" in goal["figure"] else ""): goal for goal in whole["goals"]
    }
    assert not goals["blend kernel's bytes per second / device copyRRDB"]["reached"]
    assert goals["blend kernel's bytes per second / device copylarge"]["reached"]
    assert goals["alpha change"]["measured"] == 1.25
    assert goals["alpha change"]["reached"]
    assert goals["whole alpha change"]["measured"] == pytest.approx(CHANGE * 1e6 / 1500)
    assert goals["frame with a change before every frame / steady frame"]["measured"] == pytest.approx(1.0)
    assert goals["refittable / non-refittable TensorRT engine"]["measured"] == pytest.approx(2.0)
    peers = goals["our fastest mode / torch.compile with CUDA graphs"]
    assert peers["across"]
    assert peers["measured"] == pytest.approx(2.0)
    assert goals["largest error against PyTorch"]["measured"] == pytest.approx(0.01, rel=1e-2)
    text = page(cpu_result(), whole)
    assert "## On a GPU" in text
    assert "**0.50**, not reached" in text
    assert "| `tests.it` | 1 | **failed** | 8 |" in text
    assert " | 1.25 | - |" in text
    assert "| mode tensorrt | 1 | 2 | 8 | 8 | 2 | 1.25 |" in text
    assert "| mode torch-compile | 2 | " in text
    assert text.count("### Pico, 1280x720, fp16") == 1  # both parts in one table
    assert text.count("Without onnxruntime-gpu: there is none.") == 2  # reported once per part
    assert "(two runs)" in text


def cpu_result() -> Mapping[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / "cpu.json").read_text())  # type: ignore[no-any-return]


def test_benchmarks_page_in_docs_matches_the_stored_results() -> None:
    stored = ROOT / "benchmarks" / "results" / "gpu.json"
    gpu = json.loads(stored.read_text()) if stored.exists() else None
    text = page(cpu_result(), gpu)
    assert (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8") == text
    if gpu is None:
        assert "No GPU has been measured yet" in text
        assert "python -m benchmarks.gpu.run_all" in text


def test_merge_keeps_the_later_measurement_of_a_case(
    case: tuple[dict[str, Any], list[KnownEngine], list[dict[str, Any]]],
) -> None:
    first = {
        **results.make_empty_result({"gpu": "a"}, "c"),
        "cases": [{**case[0], "seconds": 1}],
        "kernel": [figure("rrdb", "l", 0.5)],
    }
    check = {"part": 0, "name": "kernels", "command": "it", "passed": False, "seconds": 1.0, "lines": []}
    first["checks"] = [check]
    again = {
        **results.make_empty_result({"gpu": "a"}, "c"),
        "checks": [{**check, "passed": True}],
        "cases": [{**case[0], "seconds": 2}],
        "kernel": [figure("rrdb", "l", 0.7)],
    }
    other = {**results.make_empty_result({"gpu": "b"}, "c"), "cases": [{**case[0], "seconds": 3}]}
    whole = results.merge_results([first, again, other])
    assert [(entry["part"], entry["seconds"]) for entry in whole["cases"]] == [(0, 2), (1, 3)]
    assert [entry["over_copy"] for entry in whole["kernel"]] == [0.7]
    assert [check["passed"] for check in whole["checks"]] == [True]
    assert "passed  kernels in 1 s" in results.format_short_table(whole)
    assert results.merge_results([whole]) == whole


def test_invalid_command_lines_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["nonsense"]) == 2
    assert __main__.main(["--rows", "nonsense"]) == 2
    assert __main__.main(["--shape", "720"]) == 2
    assert __main__.main(["--merge", "a.json"]) == 2
    assert "there are" in capsys.readouterr().err


def test_measurement_writes_the_result_after_each_case(prepared: tuple[Path, PreparedNetwork], tmp_path: Path) -> None:
    machine, engines = Machine(), list[KnownEngine]()
    result = results.make_empty_result({"gpu": "Known"}, "c")
    measurement = Measurement(prepared[0], tmp_path / "work", result, tmp_path / "o.json", seconds=0.5)
    measurement.cases(
        ["pico"], [(64, 64), (32, 32)], ["fp32"], [make_known_mode(machine, "tensorrt", engines)], KnownClock(machine)
    )
    assert [entry["shape"] for entry in results.read(tmp_path / "o.json")["cases"]] == [[1, 3, 64, 64], [1, 3, 32, 32]]
    assert "tensorrt" in results.format_short_table(results.read(tmp_path / "o.json"))


@pytest.mark.parametrize("channels_last", [False, True])
def test_torch_weights_are_views_of_one_flat_tensor_blended_in_place(
    prepared: tuple[Path, PreparedNetwork], channels_last: bool
) -> None:
    states = list(prepared[1].states().values())
    expected = read_expected_outputs(prepared[0], "pico")
    ends = Float32Ends(pico_net(NETWORK), torch.float32, channels_last)
    flat = FlatWeights(ends.net, [dict(state) for state in states], torch.float32, channels_last)
    for name, coefficients in (("mixed", [0.35, 0.65]), ("second", [0.0, 1.0]), ("first", [1.0, 0.0]), ("mixed", [0.35, 0.65])):
        flat.blend(np.array(coefficients))
        with torch.no_grad():
            output = ends(torch.from_numpy(expected["x"])).numpy()
        assert np.abs(output - expected[name]).max() <= 1e-5 * np.abs(expected[name]).max()  # float32 against float64


def test_flat_weights_blend_three_members() -> None:
    net = torch.nn.Conv2d(3, 4, 3)
    rng = np.random.default_rng(0)
    members = [
        {"weight": rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "bias": rng.standard_normal(4).astype(np.float32)}
        for _ in range(3)
    ]
    flat = FlatWeights(net, members, torch.float32, False)
    coefficients = np.array([0.2, 0.3, 0.5])
    flat.blend(coefficients)
    truth = blend_float64(members, coefficients)["weight"]
    assert np.abs(net.weight.detach().numpy() - truth).max() <= 1e-6  # three float32 roundings of numbers up to 3


class CpuStream:
    """A fake of torch.cuda.Stream and torch.cuda.Event on the CPU."""

    cuda_stream = 7

    def __init__(self, enable_timing: bool = False) -> None:
        pass

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, other: CpuStream) -> float:
        return 1.0


def test_torch_peer_is_a_device_engine(
    prepared: tuple[Path, PreparedNetwork], bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Covers everything but the device; tests/gpu/test_torch.py runs on a GPU, with graphs and compilation."""
    empty = torch.empty
    monkeypatch.setattr(torch.cuda, "Stream", CpuStream)
    monkeypatch.setattr(torch.cuda, "Event", CpuStream)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.Tensor, "cuda", torch.Tensor.clone)
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda module: module)
    monkeypatch.setattr(torch, "empty", lambda *shape, pin_memory=False, **more: empty(*shape, **more))
    expected = read_expected_outputs(prepared[0], "pico")
    for precision in PRECISIONS:
        TorchPeer(bundle, precision, "eager").close()
        assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == (precision == "tf32")
        assert __main__.make_parser().parse_args(["--precision", precision]).precision == [precision]
    peer = TorchPeer(bundle, "fp32", "eager")
    agreement = measure_agreement(peer, expected, changes=True)
    assert describe_fault(agreement, "fp32") is None
    assert agreement.returns
    assert peer.stream_handle(0) == 7
    assert peer.infer(0, expected["x"][..., :32, :48].copy()).shape[2:] == (32, 48)
    peer.close()
    outputs = compute_expected_outputs(bundle, expected["x"], {"mixed": (0.35, 0.65)})
    np.testing.assert_allclose(outputs["mixed"], expected["mixed"], rtol=1e-6, atol=1e-6)  # float64 both, rounded once


def test_both_tensorrt_libraries_have_the_same_modes_and_reasons_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from engines import registry
    from engines.cuda import driver

    by_name = {mode.name: mode for mode in modes.GPU_BACKEND_MODES}
    suffixes = ("", "-constant", "-ahead", "-inputs", "-replay", "-inputs-replay", "-graph")
    assert [name for name in by_name if name.startswith("tensorrt")] == [
        f"{library}{suffix}" for library in ("tensorrt", "tensorrt-rtx") for suffix in suffixes
    ]
    for suffix in suffixes:
        ours, rtx = by_name[f"tensorrt{suffix}"], by_name[f"tensorrt-rtx{suffix}"]
        assert rtx.title == ours.title.replace("TensorRT", "TensorRT for RTX")
        assert (rtx.changes_alpha, rtx.async_refit) == (ours.changes_alpha, ours.async_refit)
        assert (rtx.engine or "").replace("-rtx", "") == ours.engine
        assert modes.engine_library(rtx.engine or "") == "tensorrt-rtx"
        assert modes.engine_library(ours.engine or "") == "tensorrt"
    assert modes.engine_library("onnxruntime-gpu") is None
    monkeypatch.setattr(driver, "why_gpu_unavailable", lambda: None)
    monkeypatch.setattr(registry, "find_spec", lambda name: None if name == "tensorrt_rtx" else True)
    monkeypatch.setattr(driver, "why_no_cuda_package", lambda: None)
    monkeypatch.setattr(registry.wheels, "why_driver_too_old", lambda library: None)
    assert by_name["tensorrt-graph"].unavailable_reason() is None
    reason = by_name["tensorrt-rtx-graph"].unavailable_reason()
    assert reason == f"tensorrt_rtx not installed: {format_install_line('tensorrt-rtx')}"


@pytest.mark.parametrize("library", ["tensorrt", "tensorrt-rtx"])
def test_goals_treat_both_libraries_alike(
    library: str, case: tuple[dict[str, Any], list[KnownEngine], list[dict[str, Any]]]
) -> None:
    def rename(text: str) -> str:
        return text.replace("tensorrt", library)

    renamed = {
        **case[0],
        "rows": [{**row, "name": rename(row["name"])} for row in case[0]["rows"]],
        "ratios": {rename(name): value for name, value in case[0]["ratios"].items()},
    }
    whole = results.merge_results([{**results.make_empty_result({}, "c"), "cases": [renamed]}])
    title = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT for RTX"}[library]
    goals = {goal["figure"]: goal for goal in whole["goals"]}
    assert goals[f"refittable / non-refittable {title} engine, steady frame"]["measured"] == pytest.approx(2.0)
    stall = goals["frame with a change before every frame / steady frame"]
    assert stall["what"].endswith(f"{library}-ahead")
    assert goals["our fastest mode / torch.compile with CUDA graphs, steady frame, fp16"]["what"].startswith("Pico, " + library)


def test_every_mode_uses_a_registered_engine_a_baseline_or_pytorch(gpu: FakeGpu) -> None:
    from dni_deploy.latency.baselines.tensorrt import TENSORRT_BASELINES
    from engines.registry import ENGINES

    assert {mode.engine for mode in modes.GPU_BACKEND_MODES} - {None} <= {*ENGINES, *TENSORRT_BASELINES}
    assert {mode.name for mode in modes.GPU_BACKEND_MODES if mode.engine is None} == {
        "torch-eager",
        "torch-graph",
        "torch-compile",
        "torch-autotune",
    }
    assert set(modes.OUR_MODES) <= {mode.name for mode in modes.GPU_BACKEND_MODES}
