"""Shared options become one object each for the library, and deprecated names still work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest

import dni_deploy
from dni_deploy.cli import options
from dni_deploy.cli.commands import COMMANDS
from dni_deploy.cli.main import main
from dni_deploy.errors import UsageError

ROOT = Path(__file__).parents[3]
Capture = pytest.CaptureFixture[str]


def test_member_arguments(tmp_path: Path) -> None:
    odd = tmp_path / "a=b.pth"
    odd.touch()
    assert options.parse_members(("psnr=x/1.pth", "gan.pth")) == {"psnr": Path("x/1.pth"), "gan": Path("gan.pth")}
    assert options.parse_members((str(odd),)) == {"a=b": odd}
    assert options.parse_members(("x=a=b.pth",)) == {"x": Path("a=b.pth")}
    entries = options.parse_members(("a=x/1.pth#G_A", "x/gan.pth#gen.params_ema"))
    assert entries == {"a": Path("x/1.pth#G_A"), "gan": Path("x/gan.pth#gen.params_ema")}
    with pytest.raises(UsageError, match="Two members"):
        options.parse_members(("a=1", "a=2"))


@pytest.mark.parametrize(("text", "pair"), [("0..1", (0, 1)), ("-1..1", (-1, 1)), ("0..255", (0, 255)), (None, None)])
def test_ranges_are_parsed(text: str | None, pair: tuple[float, float] | None) -> None:
    assert options.parse_value_range(text) == pair


@pytest.mark.parametrize("text", ["", "1", "1..0", "a..b", "nan..1", "0..inf", "..", "0..0"])
def test_invalid_ranges_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="LO"):
        options.parse_value_range(text)


def option_of(command: str, name: str) -> click.Option:
    from importlib import import_module

    parameters = import_module(f"dni_deploy.cli.{command}").command.params
    return next(option for option in parameters if isinstance(option, click.Option) and name in option.opts)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Records the arguments of the library's `run`, `video` and `refit` instead of calling them."""
    calls: list[dict[str, Any]] = []

    def keep(*args: Any, **keywords: Any) -> None:
        calls.append({**keywords, "args": args})
        raise KeyboardInterrupt

    for name in ("run", "video", "refit"):
        monkeypatch.setattr(f"dni_deploy.api.{name}.{name}", keep)
    return calls


def call(calls: list[dict[str, Any]], *args: str) -> dict[str, Any]:
    assert main(list(args)) == 130
    return calls[-1]


def test_a_session_option_reaches_the_library_in_one_object(calls: list[dict[str, Any]]) -> None:
    line = (
        "run x.dni a.png -o b.png --alpha 0.5 --engine onnxruntime --threads 3 --device 1 --extrapolate --alpha-for bias:*=0.2"
    )
    expected = dni_deploy.SessionOptions(engine="onnxruntime", threads=3, device=1, extrapolate=True, rules=["bias:*=0.2"])
    assert call(calls, *line.split())["options"] == expected
    assert call(calls, *["run", "x.dni", "a.png", "-o", "b.png", "--alpha", "0.5"])["options"] == dni_deploy.SessionOptions()


def test_an_encoder_option_reaches_the_library_in_one_object(calls: list[dict[str, Any]]) -> None:
    line = "video x.dni a.mp4 -o b.mp4 --alpha 0.5 --codec libx265 --crf 20 --preset slow --segment 5"
    expected = dni_deploy.EncoderOptions(codec="libx265", crf=20, preset="slow", segment_frames=5)
    assert call(calls, *line.split())["encoder"] == expected


def test_an_input_option_reaches_the_library_in_one_object(calls: list[dict[str, Any]], capsys: Capture) -> None:
    line = ["video", "x.dni", "a.mp4", "-o", "b.mp4", "--alpha", "0.5"]
    options = ["--streams", "0, 2", "--drop", "subtitles", "--drop", "3", "--deinterlace", "--hwaccel", "cuda"]
    expected = dni_deploy.InputOptions(hwaccel="cuda", streams=(0, 2), drop=("subtitles", "3"), deinterlace=True)
    assert call(calls, *line, *options)["input_options"] == expected
    assert call(calls, *line)["input_options"] == dni_deploy.InputOptions()
    assert main([*line, "--streams", "0,-1"]) == 2
    assert "--streams 0,-1 is no list of indices, such as 0,1,3." in capsys.readouterr().err


def test_an_alpha_map_reaches_the_library_in_one_object(calls: list[dict[str, Any]], capsys: Capture) -> None:
    line = "run x.dni a.png -o b.png --alpha-map m.png --alpha-map-to 0.9 --levels 5 --alpha-map-fit"
    assert call(calls, *line.split())["alpha_map"] == dni_deploy.AlphaMapOptions(Path("m.png"), "0.9", 5, True, False)
    assert main(["run", "x.dni", "a.png", "-o", "b.png", "--alpha", "0.5", "--levels", "5"]) == 2
    assert "give --alpha-map MASK" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["--alpha-preset", "--recipe"])
def test_a_preset_gives_rules_and_alpha(name: str, calls: list[dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "look.json"
    path.write_text('{"schema": 1, "members": ["a", "b"], "alpha": 0.25, "rules": [{"weights": "norm:*", "alpha": 1}]}')
    keywords = call(calls, "refit", "x.dni", "-o", "b.onnx", name, str(path), "--alpha-for", "bias:*=0.2")
    assert [str(rule) for rule in keywords["rules"]] == ["norm:*=1", "bias:*=0.2"]
    assert keywords["args"][1].values == (0.25, 0.75)
    assert call(calls, "refit", "x.dni", "-o", "b.onnx", name, str(path), "--alpha", "1")["args"][1] == "1"


def test_alpha_and_slider_exclude_each_other(capsys: Capture) -> None:
    assert main(["run", "x.dni", "a.png", "-o", "b.png", "--alpha", "0.5", "--slider", "0.5"]) == 2
    assert "--alpha and --slider both set alpha" in capsys.readouterr().err


def test_deprecated_option_names_work_and_are_hidden(capsys: Capture) -> None:
    assert main(["run", "-h"]) == main(["build", "-h"]) == 0
    text = capsys.readouterr().out
    assert "--alpha-preset FILE" in text
    assert "--calibration-points" in text
    assert not re.search("recipe|--knots", text)


def test_environment_variable_of_an_option_has_a_deprecated_alias(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert option_of("run", "--save-alpha-preset").envvar == ["DNI_RUN_SAVE_ALPHA_PRESET", "DNI_RUN_SAVE_RECIPE"]
    monkeypatch.setenv("DNI_VIDEO_SEGMENT", "7")
    assert call(calls, *["video", "x.dni", "a.mp4", "-o", "b.mp4", "--alpha", "0.5"])["encoder"].segment_frames == 7


@pytest.mark.parametrize("command", COMMANDS)
def test_help_texts_are_sentences(command: str) -> None:
    from importlib import import_module

    for option in import_module(f"dni_deploy.cli.{command}").command.params:
        if isinstance(option, click.Option):
            text = (option.help or "").partition("  [default")[0]
            assert text[0].isupper(), f"{command} {option.opts}: {text}"
            assert text.endswith((".", ").")), f"{command} {option.opts}: {text}"


@pytest.mark.parametrize("command", COMMANDS)
def test_paths_of_the_command_line_keep_the_slashes_of_addresses(command: str) -> None:
    """Each path is of a type that refuses addresses whole, or passes them on as they are."""
    from importlib import import_module

    for parameter in import_module(f"dni_deploy.cli.{command}").command.params:
        if isinstance(parameter.type, click.Path) and not isinstance(parameter.type, options.LocationType):
            if isinstance(parameter.type, options.LocalPathType):
                with pytest.raises(
                    UsageError, match=r"^s3://b/k is an address, and (--[\w-]+|\S+) has to be a path on this machine.$"
                ):
                    parameter.type.convert("s3://b/k", parameter, None)
            else:
                assert (command, parameter.name) == ("run", "output") or parameter.name == "bundle"


def test_a_bundle_at_an_address_is_no_path(capsys: Capture) -> None:
    assert main(["inspect", "nosuch://b/x.dni"]) == 7
    assert capsys.readouterr().err.startswith(
        "dni-deploy: error: nosuch:// cannot be opened here (ValueError: Protocol not known"
    )
    assert main(["inspect", "https://h/x.dni"]) == 3
    assert "https://h/x.dni is an address, and nothing is downloaded" in capsys.readouterr().err
