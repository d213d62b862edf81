"""Rules for groups of weights, as users meet them: in sessions, in files that refit writes, and on command lines."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

import dni_deploy as dni
from dni_deploy.blending.blend import blend_float64
from dni_deploy.blending.group_rules import AlphaRules
from dni_deploy.blending.weight_groups import WeightGroups
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.cli.main import main
from dni_deploy.errors import CoefficientsError, UsageError
from dni_deploy.session.options import SessionOptions
from dni_deploy.session.session import open_session
from dni_deploy.utils.compare_arrays import relative_error
from tests.support import pico_bundle
from tests.support.pico_architectures import PICO, pico_family, pico_net

TOLERANCE = 1e-5
"""Float32 against PyTorch in float64, as in test_parity.py."""
RULES = ["weight:*=base*0.5", "norm:*=0.2", "bias:*=1", "*=0.1..0.9", "activation:*=base"]


def useful(rules: list[str], groups: WeightGroups) -> list[str]:
    """Without those whose role a network lacks."""
    return [rule for rule in rules if rule.partition(":")[0] in groups.roles or rule.startswith("*")]


@pytest.mark.parametrize("name", PICO)
def test_a_session_computes_what_pytorch_does_with_every_tensor_blended_by_its_rule(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"{name}.dni"  # exported once for both engines
    states = pico_family(name, 2)
    bundle = Bundle.open(folder) if folder.exists() else dni.export(dict(zip("ab", states, strict=True)), folder)
    groups = WeightGroups.from_graph(bundle.read_graph(), bundle.weight_names)
    rules = useful(RULES[:3], groups)
    x = np.random.default_rng(3).uniform(bundle.signature.low, bundle.signature.high, PICO[name].shapes[0]).astype(np.float32)
    with open_session(bundle, engine="onnxruntime", alpha=0.6, rules=rules, threads=1) as session:
        for wanted in (rules, useful(RULES, groups)):
            session.rules = wanted
            rows = AlphaRules.parse(wanted, groups, ("a", "b")).compute_coefficients(np.array([0.6, 0.4]))
            assert len(np.unique(rows, axis=0)) > 1
            tensors = [{key: state[key] for key in bundle.weight_names} for state in states]
            net = pico_net(name).double()
            blended = blend_float64(tensors, rows)
            tied = {key: blended[first] for key, first in bundle.manifest.tied.items() if first in blended}
            whole = {**states[0], **blended, **tied}
            net.load_state_dict({key: torch.as_tensor(array) for key, array in whole.items()}, strict=True)
            with torch.no_grad():
                expected = net(torch.from_numpy(x).double()).numpy()
            assert relative_error(session.infer(x), expected) <= TOLERANCE


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return pico_bundle.write(tmp_path_factory.mktemp("rules") / "pico.dni")


FRAME = np.random.default_rng(0).integers(0, 256, (12, 10, 1), np.uint8)
X = np.random.default_rng(1).random((1, 1, 12, 10)).astype(np.float32)


def test_rules_change_at_the_next_frame_and_leave_the_base_as_it_is(bundle: Bundle) -> None:
    with open_session(bundle, alpha=0.5) as session:
        plain = session.infer(X)
        assert session.rules is None
        session.rules = ["norm:*=1"]
        ruled = session.infer(X)
        assert session.generation == 2
        assert session.alpha.values == (0.5, 0.5)
        session.rules = ["norm:*=1"]  # the same again is no change
        session.infer(X)
        assert session.generation == 2
        session.alpha = 0.25
        session.infer(X)
        session.alpha = 0.5
        np.testing.assert_array_equal(session.infer(X), ruled)  # there and back, bit for bit
        session.rules = []
        np.testing.assert_array_equal(session.infer(X), plain)
        assert not np.array_equal(plain, ruled)


def test_rules_that_are_off_leave_those_before(bundle: Bundle) -> None:
    with open_session(bundle, alpha=0.5, rules=["norm:*=1"]) as session:
        before = session.infer(X)
        for rules, error in ((["norm:*=2"], CoefficientsError), (["nrom:*=1"], UsageError), ("norm:*=0", UsageError)):
            with pytest.raises(error):
                session.rules = rules  # type: ignore[assignment]
        np.testing.assert_array_equal(session.infer(X), before)
    with pytest.raises(UsageError, match="picks no weight"):
        open_session(bundle, rules=["bn.wight=1"])


def test_extrapolation_is_guarded_by_group(bundle: Bundle) -> None:
    with open_session(bundle, alpha=0.5, extrapolate=True) as session:
        session.rules = ["conv:*=40"]  # far outside, and no variance
        assert np.isfinite(session.infer(X)).all()
        for share in (1e4, -1e4):
            with pytest.raises(CoefficientsError, match=r"and these rules the BatchNorm variance 'bn.running_var'"):
                session.rules = [f"statistics:*={share}", f"bn.running_var={-share}"] if share < 0 else [f"*={share}"]
        session.rules = ["statistics:*=0.5"]
        session.alpha = 3.0  # the variances do not follow
        assert np.isfinite(session.infer(X)).all()


@pytest.mark.usefixtures("nervous")
def test_no_frame_is_made_of_two_settings(bundle: Bundle) -> None:
    """Alpha and rules set from two threads while frames run: each output is that of one pair."""
    alphas, rules = (0.0, 0.5), (["conv:*=0"], ["conv:*=1"], [])
    with open_session(bundle, alpha=0.0, threads=1) as session:
        allowed = set()
        for rule in rules:
            for alpha in alphas:
                session.alpha, session.rules = alpha, rule
                allowed.add(session.infer(X).tobytes())
        stop = threading.Event()

        def turn(field: str, values: Any) -> None:
            while not stop.is_set():
                for value in values:
                    setattr(session, field, value)

        threads = [threading.Thread(target=turn, args=pair) for pair in (("alpha", alphas), ("rules", rules))]
        for thread in threads:
            thread.start()
        try:
            seen = {session.infer(X).tobytes() for _ in range(150)}
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert seen <= allowed


def test_refit_writes_the_rules_blend_and_says_so(bundle: Bundle, tmp_path: Path) -> None:
    target, recipe = tmp_path / "blend.safetensors", tmp_path / "look.json"
    rules = ["norm:*=1", "conv.weight=base*0.5"]
    report = dni.refit(bundle.path, 0.5, target, rules=rules, save_preset=recipe)
    assert [(rule.weights, rule.count) for rule in report.rules] == [("norm:*", 4), ("conv.weight", 1)]
    a, b, got = bundle.read_tensors("a"), bundle.read_tensors("b"), load_file(target)
    for name in a:
        share = 1.0 if name.startswith("bn.") else 0.25 if name == "conv.weight" else 0.5
        wide = share * a[name].astype(np.float64) + (1 - share) * b[name].astype(np.float64)
        assert np.array_equal(got[name], wide.astype(a[name].dtype) if a[name].dtype.kind == "f" else a[name])
    header = json.loads(target.read_bytes()[8 : 8 + int.from_bytes(target.read_bytes()[:8], "little")])
    assert json.loads(header["__metadata__"]["dni_deploy"])["rules"][0] == {"weights": "norm:*", "alpha": {"a": 1.0, "b": 0.0}}
    again = tmp_path / "again.onnx"
    assert main(["refit", str(bundle.path), "--alpha-preset", str(recipe), "-o", str(again)]) == 0
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(again).graph.initializer}
    assert np.array_equal(weights["conv.weight"], got["conv.weight"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sr.dni, in.png."""
    made = tmp_path_factory.mktemp("commands")
    dni.export(dict(zip(("psnr", "gan"), pico_family("compact", 2), strict=True)), made / "sr.dni")
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 24, 3), np.uint8)).save(made / "in.png")
    return made


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def shown(capture: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any, str]:
    """Exit code, the object on stdout, and stderr."""
    capture.readouterr()
    code = main([*arguments, "--json", "-q"])
    captured = capture.readouterr()
    return code, json.loads(captured.out) if captured.out else None, captured.err


RULED = ("--alpha-for", "weight:body.*=0.2..0.8", "--alpha-for", "activation:*=psnr=1")


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_run_tells_what_it_pinned_and_keeps_it_as_a_recipe(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, result, _ = shown(
        capsys, "run", "sr.dni", "in.png", "-o", "a.png", "--alpha", "0.5", *RULED, "--save-alpha-preset", "look.json"
    )
    assert code == 0
    assert [(rule["weights"], rule["alpha"], rule["count"]) for rule in result["rules"]] == [
        ("weight:body.*", "0.2..0.8", 5),
        ("activation:*", "1", 4),
    ]
    code, result, _ = shown(capsys, "run", "sr.dni", "in.png", "-o", "b.png", "--alpha-preset", "look.json")
    assert (code, result["alpha"]) == (0, {"psnr": 0.5, "gan": 0.5})
    assert np.array_equal(pixels(here / "a.png"), pixels(here / "b.png"))
    with open_session(here / "sr.dni", alpha=0.5, rules=RULED[1::2]) as session:
        assert np.array_equal(pixels(here / "a.png"), session(pixels(here / "in.png")))
        session.rules = []
        assert not np.array_equal(pixels(here / "a.png"), session(pixels(here / "in.png")))


def test_later_rules_of_the_command_line_win_over_a_recipe(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = {"schema": 1, "members": ["psnr", "gan"], "alpha": 0.25, "rules": [{"weights": "*", "alpha": 1}]}
    (here / "all.json").write_text(json.dumps(recipe))
    code, result, _ = shown(
        capsys, "run", "sr.dni", "in.png", "-o", "c.png", "--recipe", "all.json", "--alpha", "0.75", "--alpha-for", "*=0"
    )
    assert code == 0
    assert [rule["count"] for rule in result["rules"]] == [0, 14]
    assert result["alpha"] == {"psnr": 0.75, "gan": 0.25}


def test_sweep_moves_what_no_rule_pins(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, _ = shown(capsys, "sweep", "sr.dni", "in.png", "-o", "s.png", "--steps", "2", "--alpha-for", "*=0.5")
    assert code == 0
    sheet = pixels(here / "s.png")
    code, _, _ = shown(capsys, "sweep", "sr.dni", "in.png", "-o", "t.png", "--steps", "2")
    assert code == 0
    assert not np.array_equal(sheet, pixels(here / "t.png"))


def test_inspect_lists_what_a_pattern_can_pick(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["inspect", "sr.dni", "--groups"]) == 0
    output = capsys.readouterr().out
    assert "body.1.weight" in output
    assert "activation weight" in output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--alpha", "0.5", "--alpha-for", "norm:*=0.2"), 2, "the roles here are conv, activation, weight, bias"),
        (("--alpha", "0.5", "--alpha-for", "body.0.wieght=0.2"), 2, "near it are 'body.0.weight'"),
        (("--alpha", "0.5", "--alpha-for", "body.*=1.5"), 2, "outside 0 to 1"),
        (("--alpha-preset", "none.json"), 3, "none.json does not exist"),
        (("--recipe", "others.json"), 2, "for the members 'a', 'b', this family has 'psnr', 'gan'"),
        (("--recipe", "open.json"), 2, "Which alpha"),
    ],
)
def test_what_is_off_is_told_and_nothing_is_written(
    arguments: tuple[str, ...], code: int, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "others.json").write_text('{"members": ["a", "b"], "alpha": 1, "rules": [{"weights": "*", "alpha": 1}]}')
    (here / "open.json").write_text('{"members": ["psnr", "gan"], "rules": [{"weights": "*", "alpha": 1}]}')
    capsys.readouterr()
    assert main(["run", "sr.dni", "in.png", "-o", "never.png", *arguments]) == code
    assert message in capsys.readouterr().err
    assert not (here / "never.png").exists()


def test_films_and_pipes_have_rules(here: Path) -> None:
    """Everything pinned to one member, and alpha that moves: the very film, and the very stream, of that member."""
    pytest.importorskip("av", reason="films need PyAV (extra `video`)")
    from dni_deploy.api.filter import filter
    from dni_deploy.api.video import video
    from tests.support.video_clips import Clip

    source = Clip(audio=None, frames=6).write(here / "in.mp4")
    moving, pinned = "0:gan=1, 0.2s:gan=0", ["*=psnr=1"]
    for name, alpha, rules in (("moving", moving, pinned), ("still", "psnr=1", None), ("free", moving, None)):
        video("sr.dni", source, here / f"{name}.mp4", alpha, options=SessionOptions(rules=rules))
        with open(here / f"{name}.rgb", "wb") as sink:
            raw = io.BytesIO(np.random.default_rng(4).integers(0, 256, 3 * 20 * 16 * 3, np.uint8).tobytes())
            filter(
                "sr.dni", raw, sink, format="rgb24", size="20x16", fps="10", alpha=alpha, options=SessionOptions(rules=rules)
            )  # type: ignore[arg-type]
    for suffix in (".mp4", ".rgb"):
        moved, still, free = ((here / f"{name}{suffix}").read_bytes() for name in ("moving", "still", "free"))
        assert moved == still
        assert moved != free
