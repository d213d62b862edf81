"""The GPU benchmark's machinery, without a GPU: prepared networks, checks, times that are known beforehand, JSON and page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu import __main__, measure_all, modes
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
from engines import ort_session
from tests.fakes.gpu import FakeGpu
from tests.support.pico_architectures import pico_net
from tests.support.simulated_clock import CHANGE, DOWNLOAD, FRAME, UPLOAD, KnownClock, KnownEngine, Machine

NETWORK = "dncnn_bn"
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreparedNetwork]:
    folder = tmp_path_factory.mktemp("prepared")
    return folder, prepare(folder, "pico", title="Pico", build=lambda: pico_net(NETWORK))


@pytest.fixture
def bundle(prepared: tuple[Path, PreparedNetwork], tmp_path: Path) -> Bundle:
    return PreparedNetwork.load(prepared[0], "pico").bundle(tmp_path / "pico.dni")


def test_a_prepared_network_is_small_and_comes_back_whole(prepared: tuple[Path, PreparedNetwork], bundle: Bundle) -> None:
    folder, made = prepared
    read = PreparedNetwork.load(folder, "pico")
    assert read.graph == made.graph
    assert (read.signature, read.shapes, read.weights_sha256) == (made.signature, made.shapes, made.weights_sha256)
    assert (folder / "pico.onnx").stat().st_size < 20_000
    assert all(not tensor.raw_data for tensor in read.graph.graph.initializer if tensor.name in read.shapes)
    assert set(bundle.weight_names) == set(read.shapes)
    for member, state in read.states().items():
        for name, value in bundle.read_weights(member).items():
            np.testing.assert_array_equal(value, state[name])
    assert read.bundle(bundle.path).digest == bundle.digest  # a second call takes the one that is there


def test_what_is_expected_is_what_the_bundle_computes(prepared: tuple[Path, PreparedNetwork], bundle: Bundle) -> None:
    expected = read_expected_outputs(prepared[0], "pico")
    members = [bundle.read_weights(member) for member in bundle.members]
    for name, shares in (("mixed", [0.35, 0.65]), ("first", [1.0, 0.0]), ("second", [0.0, 1.0])):
        got = ort_session.run_session(
            ort_session.open_cpu_session(bundle.read_graph_with_weights(blend_float64(members, np.array(shares))), 1),
            expected["x"],
        )
        assert np.abs(got - expected[name]).max() <= 1e-5 * np.abs(expected[name]).max()  # float32 against float64


def test_random_members_differ_a_little_and_keep_variances_positive() -> None:
    shapes = {"c.weight": (16, 8, 3, 3), "c.bias": (16,), "b.weight": (16,), "b.bias": (16,), "b.running_var": (16,)}
    states = make_random_family(shapes, members=3, seed=4)
    first, second = states["m0"], states["m1"]
    moved = np.std(first["c.weight"] - second["c.weight"]) / np.std(first["c.weight"])
    assert 0.7 * MEMBER_DISTANCE < moved < 1.4 * MEMBER_DISTANCE
    assert all(float(state["b.running_var"].min()) > 0 for state in states.values())
    again = make_random_family(shapes, members=3, seed=4)
    assert all(np.array_equal(states[m][n], again[m][n]) for m in states for n in shapes)


def test_other_random_numbers_are_told(prepared: tuple[Path, PreparedNetwork], tmp_path: Path) -> None:
    for path in prepared[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    facts = json.loads((tmp_path / "pico.json").read_text())
    (tmp_path / "pico.json").write_text(json.dumps({**facts, "seed": facts["seed"] + 1}))
    with pytest.raises(InputError, match="come out differently"):
        PreparedNetwork.load(tmp_path, "pico").bundle(tmp_path / "x.dni")
    with pytest.raises(InputError, match="--prepare"):
        PreparedNetwork.load(tmp_path, "nothing")


def known(machine: Machine, name: str, engines: list[KnownEngine], **options: Any) -> GpuBackendMode:
    def open_way(bundle: Bundle, precision: str) -> KnownEngine:
        kept = {key: options[key] for key in ("slots", "scale", "frame") if key in options}
        engines.append(KnownEngine(machine, bundle, **kept))
        return engines[-1]

    about = {key: options[key] for key in ("changes_alpha", "async_refit", "slow") if key in options}
    return GpuBackendMode(name, f"the way {name}", open_way, options.get("obstacle", lambda: None), **about)


@pytest.fixture
def case(
    prepared: tuple[Path, PreparedNetwork], bundle: Bundle
) -> tuple[dict[str, Any], list[KnownEngine], list[dict[str, Any]]]:
    machine, engines, kept = Machine(), list[KnownEngine](), list[dict[str, Any]]()
    chosen = [
        known(machine, "tensorrt", engines),
        known(machine, "tensorrt-constant", engines, changes_alpha=False, frame=FRAME / 2),
        known(machine, "tensorrt-ahead", engines, slots=2, async_refit=True),
        known(machine, "tensorrt-inputs", engines, scale=1.01),
        known(machine, "onnxruntime-gpu", engines, obstacle=lambda: "there is none"),
        known(machine, "torch-compile", engines, frame=FRAME * 2, slow=True),
    ]
    made = run_case(
        prepared[1], prepared[0], bundle, (720, 1280), "fp16", chosen, KnownClock(machine), seconds=1.0, keep=kept.append
    )
    return made, engines, kept


def test_a_case_tells_the_times_that_are_known(case: tuple[dict[str, Any], list[KnownEngine], list[dict[str, Any]]]) -> None:
    rows = {row["name"]: row for row in case[0]["rows"]}
    assert list(rows) == ["tensorrt", "tensorrt-constant", "tensorrt-ahead", "torch-compile"]
    ms = 1e3
    plain, ahead, constant = rows["tensorrt"], rows["tensorrt-ahead"], rows["tensorrt-constant"]
    assert plain["steady_ms"] == pytest.approx(FRAME * ms)
    assert plain["change_ms"] == plain["host_change_ms"] == pytest.approx(CHANGE * ms)
    assert plain["first_ms"] == plain["host_steady_ms"] == pytest.approx(FRAME * ms)
    assert plain["host_changed_ms"] == pytest.approx((FRAME + CHANGE) * ms)
    assert plain["host_frame_ms"] == pytest.approx((UPLOAD + FRAME + DOWNLOAD) * ms)
    assert plain["changed_over_steady"] == pytest.approx((FRAME + CHANGE) / FRAME)
    assert ahead["changed_over_steady"] == pytest.approx(1.0)  # hidden behind the frame
    assert constant["change_ms"] is None
    assert constant["changed_over_steady"] is None
    assert constant["agreement"]["returns"] is None
    assert plain["agreement"]["returns"] is True
    assert plain["rounds"] >= 3
    assert case[0]["ratios"]["steady, tensorrt / tensorrt-constant"] == pytest.approx(2.0)
    assert case[0]["ratios"]["steady, tensorrt / torch-compile"] == pytest.approx(0.5)


def test_a_way_that_is_wrong_or_absent_gets_no_time(
    case: tuple[dict[str, Any], list[KnownEngine], list[dict[str, Any]]],
) -> None:
    made, engines, kept = case
    assert made["skipped"]["onnxruntime-gpu"] == "there is none"
    assert made["skipped"]["tensorrt-inputs"].startswith("wrong: it differs from PyTorch by 1.0e-02")
    assert made["wrong"]["tensorrt-inputs"]["error"] == pytest.approx(0.01, rel=1e-2)
    assert all(engine.closed for engine in engines)
    # Before the slow one is opened, the others are safe.
    assert [row["name"] for row in kept[0]["rows"]] == ["tensorrt", "tensorrt-constant", "tensorrt-ahead"]
    assert "not reached" in kept[0]["skipped"]["torch-compile"]
    json.dumps(made, allow_nan=False)


def test_nothing_more_is_opened_when_the_time_is_up(prepared: tuple[Path, PreparedNetwork], bundle: Bundle) -> None:
    machine, engines = Machine(), list[KnownEngine]()
    chosen = [known(machine, "tensorrt", engines)]
    made = run_case(prepared[1], prepared[0], bundle, (64, 64), "fp32", chosen, KnownClock(machine), budget=0.0)
    assert not engines
    assert not made["rows"]
    assert "not reached" in made["skipped"]["tensorrt"]


@pytest.mark.parametrize(
    ("found", "precision", "wrong"),
    [
        (Agreement((1,), 9e-5, 90.0, True), "fp32", False),
        (Agreement((1,), 2e-4, 90.0, True), "fp32", True),
        (Agreement((1,), float("nan"), 90.0, True), "fp32", True),
        (Agreement((1,), 4e-3, 55.0, True), "fp16", False),
        (Agreement((1,), 4e-3, 49.0, True), "fp16", True),
        (Agreement((1,), 0.0, None, True), "fp16", False),
    ],
)
def test_faults(found: Agreement, precision: str, wrong: bool) -> None:
    assert (describe_fault(found, precision) is not None) == wrong


class NaNs(KnownEngine):
    def infer(self, slot: int, x: Any) -> Any:
        return super().infer(slot, x) * np.float32("nan")


def test_nan_is_wrong(prepared: tuple[Path, PreparedNetwork], bundle: Bundle) -> None:
    machine = Machine()
    way = GpuBackendMode("tensorrt", "NaN", lambda bundle, precision: NaNs(machine, bundle), lambda: None)
    made = run_case(prepared[1], prepared[0], bundle, (64, 64), "fp16", [way], KnownClock(machine))
    assert "wrong" in made["skipped"]["tensorrt"]
    json.dumps(results.merge_results([{**results.make_empty_result({}, "c"), "cases": [made]}]), allow_nan=False)


class Fragile(KnownEngine):
    left = 25

    def enqueue(self, slot: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise ValueError("out of order")
        super().enqueue(slot)


@pytest.mark.parametrize("left", [0, 1, 25])
def test_one_that_fails_while_it_is_timed_costs_itself_alone(
    prepared: tuple[Path, PreparedNetwork], bundle: Bundle, left: int
) -> None:
    machine, engines, said = Machine(), list[KnownEngine](), list[str]()

    def fragile(bundle: Bundle, precision: str) -> Fragile:
        engines.append(Fragile(machine, bundle))
        engines[-1].left = left  # type: ignore[attr-defined]
        return engines[-1]  # type: ignore[return-value]

    modes = [GpuBackendMode("tensorrt", "breaks", fragile, lambda: None), known(machine, "onnxruntime-gpu", engines)]
    made = run_case(
        prepared[1], prepared[0], bundle, (64, 64), "fp32", modes, KnownClock(machine), seconds=1.0, report=said.append
    )
    assert [row["name"] for row in made["rows"]] == ["onnxruntime-gpu"]
    assert made["skipped"]["tensorrt"] == "failed while it was timed: ValueError: out of order"
    assert any("Traceback" in text for text in said)
    assert all(engine.closed for engine in engines)
    assert len(made["ratios"]) == 0


def figure(network: str, label: str, over: float, **more: Any) -> dict[str, Any]:
    return {
        "part": 0, "network": network, "label": label, "precision": "fp16", "as_in_cases": True, "bytes": 10**8, "launched_us": 30.0,
        "replayed_us": 1500.0, "bytes_per_second": 4e12, "over_copy": over, "over_copy_of_same_bytes": 1.0,
        "by_row_over_plain_launched": 1.25, **more,
    }  # fmt: skip


def test_goals_and_page_follow_from_the_result(
    case: tuple[dict[str, Any], list[KnownEngine], list[dict[str, Any]]], tmp_path: Path
) -> None:
    ours = results.make_empty_result({"gpu": "Known", "date": "2026-01-01"}, "abc")
    ours["parts"][0]["ceilings"] = {"copy": 4.4e12, "products": {"fp16": 8e14}}
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
    assert " | 1.25 | - |" in text
    assert "| the way tensorrt | 1 | 2 | 8 | 8 | 2 | 1.25 |" in text
    assert "| the way torch-compile | 2 | " in text
    assert text.count("### Pico, 1280x720, fp16") == 1  # both parts in one table
    assert text.count("Without onnxruntime-gpu: there is none.") == 2  # told once for each part
    assert "(two runs)" in text


def cpu_result() -> Mapping[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / "cpu.json").read_text())  # type: ignore[no-any-return]


def test_the_page_in_docs_is_the_one_that_the_results_make() -> None:
    stored = ROOT / "benchmarks" / "results" / "gpu.json"
    gpu = json.loads(stored.read_text()) if stored.exists() else None
    text = page(cpu_result(), gpu)
    assert (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8") == text
    if gpu is None:
        assert "No GPU has been measured yet" in text
        assert "python -m benchmarks.gpu.measure_all" in text


def test_of_two_measurements_of_one_thing_the_later_counts(
    case: tuple[dict[str, Any], list[KnownEngine], list[dict[str, Any]]],
) -> None:
    first = {
        **results.make_empty_result({"gpu": "a"}, "c"),
        "cases": [{**case[0], "seconds": 1}],
        "kernel": [figure("rrdb", "l", 0.5)],
    }
    again = {
        **results.make_empty_result({"gpu": "a"}, "c"),
        "cases": [{**case[0], "seconds": 2}],
        "kernel": [figure("rrdb", "l", 0.7)],
    }
    other = {**results.make_empty_result({"gpu": "b"}, "c"), "cases": [{**case[0], "seconds": 3}]}
    whole = results.merge_results([first, again, other])
    assert [(entry["part"], entry["seconds"]) for entry in whole["cases"]] == [(0, 2), (1, 3)]
    assert [entry["over_copy"] for entry in whole["kernel"]] == [0.7]
    assert results.merge_results([whole]) == whole


def test_the_most_telling_comes_first_and_what_is_there_is_not_done_again(
    case: tuple[dict[str, Any], list[KnownEngine], list[dict[str, Any]]],
) -> None:
    plain = [task.name for task in measure_all.list_tasks(plans=False)]
    assert plain[:3] == ["kernel", "rrdb 1280x720 fp16", "compact 1280x720 fp16"]
    assert len(plain) == 25
    planned = list(measure_all.list_tasks(plans=True))
    assert [task.name for task in planned[1:5]] == [
        f"plan rrdb 1280x720 fp16 {name}" for name in ("tensorrt", "tensorrt-constant", "tensorrt-inputs", "tensorrt-graph")
    ]
    for task in planned:  # every command line is one that is understood
        __main__.make_parser().parse_args(list(task.arguments))
    whole = results.merge_results(
        [{**results.make_empty_result({}, "c"), "cases": [{**case[0], "network": "rrdb"}], "kernel": [figure("large", "l", 1)]}]
    )
    done = [task.name for task in planned if measure_all.has_result(whole, task)]
    assert done == ["kernel", "rrdb 1280x720 fp16"]


def test_all_of_it_goes_on_where_it_ended(
    case: tuple[dict[str, Any], list[KnownEngine], list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def run(task: measure_all.Task, common: tuple[str, ...], output: Path, left: float) -> Any:
        if len(done) == 4:
            return None  # it crashed
        done.append(task.name)
        made = results.make_empty_result({"gpu": "Known"}, "c")
        if task.kernel:
            made["kernel"] = [figure("large", "l", 1.0)]
        elif task.case is not None:
            network, shape, precision = task.case
            made["cases"] = [{**case[0], "network": network, "shape": [1, 3, *shape], "precision": precision}]
        return made

    monkeypatch.setattr(measure_all, "run", run)
    monkeypatch.setattr(measure_all.driver, "why_gpu_unavailable", lambda: None)
    command = ["--prepared", str(tmp_path), "-o", str(tmp_path / "o.json"), "--commit", "c"]
    assert measure_all.main(command) == 0
    assert done == ["kernel", "rrdb 1280x720 fp16", "compact 1280x720 fp16", "dncnn 1280x720 fp16"]
    assert len(results.read(tmp_path / "o.json")["cases"]) == 3
    done.clear()
    assert measure_all.main(command) == 0
    assert done[0] == "transformer 1280x720 fp16"
    assert len(results.read(tmp_path / "o.json")["cases"]) == 7
    done.clear()
    assert measure_all.main([*command, "--budget", "1"]) == 0
    assert not done  # no time left


def test_what_cannot_run_here_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["nonsense"]) == 2
    assert __main__.main(["--rows", "nonsense"]) == 2
    assert __main__.main(["--shape", "720"]) == 2
    assert __main__.main(["--merge", "a.json"]) == 2
    assert "there are" in capsys.readouterr().err


def test_a_measurement_writes_after_each_case(prepared: tuple[Path, PreparedNetwork], tmp_path: Path) -> None:
    machine, engines = Machine(), list[KnownEngine]()
    made = results.make_empty_result({"gpu": "Known"}, "c")
    measurement = Measurement(prepared[0], tmp_path / "work", made, tmp_path / "o.json", seconds=0.5)
    measurement.cases(["pico"], [(64, 64), (32, 32)], ["fp32"], [known(machine, "tensorrt", engines)], KnownClock(machine))
    assert [entry["shape"] for entry in results.read(tmp_path / "o.json")["cases"]] == [[1, 3, 64, 64], [1, 3, 32, 32]]
    assert "tensorrt" in results.format_short_table(results.read(tmp_path / "o.json"))


@pytest.mark.parametrize("channels_last", [False, True])
def test_torch_weights_are_views_of_one_tensor_that_is_blended_in_place(
    prepared: tuple[Path, PreparedNetwork], channels_last: bool
) -> None:
    states = list(prepared[1].states().values())
    expected = read_expected_outputs(prepared[0], "pico")
    ends = Float32Ends(pico_net(NETWORK), torch.float32, channels_last)
    flat = FlatWeights(ends.net, [dict(state) for state in states], torch.float32, channels_last)
    for name, shares in (("mixed", [0.35, 0.65]), ("second", [0.0, 1.0]), ("first", [1.0, 0.0]), ("mixed", [0.35, 0.65])):
        flat.blend(np.array(shares))
        with torch.no_grad():
            got = ends(torch.from_numpy(expected["x"])).numpy()
        assert np.abs(got - expected[name]).max() <= 1e-5 * np.abs(expected[name]).max()  # float32 against float64


def test_three_members_in_torch() -> None:
    net = torch.nn.Conv2d(3, 4, 3)
    rng = np.random.default_rng(0)
    members = [
        {"weight": rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "bias": rng.standard_normal(4).astype(np.float32)}
        for _ in range(3)
    ]
    flat = FlatWeights(net, members, torch.float32, False)
    shares = np.array([0.2, 0.3, 0.5])
    flat.blend(shares)
    truth = blend_float64(members, shares)["weight"]
    assert np.abs(net.weight.detach().numpy() - truth).max() <= 1e-6  # three float32 roundings of numbers up to 3


class Elsewhere:
    """A stream and an event of a GPU that is this CPU."""

    cuda_stream = 7

    def __init__(self, enable_timing: bool = False) -> None:
        pass

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, other: Elsewhere) -> float:
        return 1.0


def test_pytorchs_row_is_an_engine(
    prepared: tuple[Path, PreparedNetwork], bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the device: tests/gpu/test_torch.py has that, with graphs and compilation."""
    empty = torch.empty
    monkeypatch.setattr(torch.cuda, "Stream", Elsewhere)
    monkeypatch.setattr(torch.cuda, "Event", Elsewhere)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.Tensor, "cuda", torch.Tensor.clone)
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda module: module)
    monkeypatch.setattr(torch, "empty", lambda *shape, pin_memory=False, **more: empty(*shape, **more))
    expected = read_expected_outputs(prepared[0], "pico")
    peer = TorchPeer(bundle, "fp32", "eager")
    found = measure_agreement(peer, expected, changes=True)
    assert describe_fault(found, "fp32") is None
    assert found.returns
    assert peer.stream_handle(0) == 7
    assert peer.infer(0, expected["x"][..., :32, :48].copy()).shape[2:] == (32, 48)
    peer.close()
    again = compute_expected_outputs(bundle, expected["x"], {"mixed": (0.35, 0.65)})
    np.testing.assert_allclose(again["mixed"], expected["mixed"], rtol=1e-6, atol=1e-6)  # float64 both, rounded once


def test_every_mode_is_an_engine_a_baseline_or_pytorch(gpu: FakeGpu) -> None:
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
