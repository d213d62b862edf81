"""The command lines that the page offers: shell words, and numbers that are read back bit for bit."""

from __future__ import annotations

import shlex

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.timeline import AlphaTimeline
from dni_deploy.webui.commands import CommandLines, format_alpha, format_timeline

NAMES = ("psnr", "gan", "art")


def test_a_setting_is_a_command_for_what_is_shown() -> None:
    alpha = Coefficients.parse([0.1, 0.2, 0.7], NAMES)
    video = CommandLines("my sr.dni", "films/in.mp4", True, ("--alpha-for", "norm:*=0.2"))
    assert shlex.split(video.format_setting(alpha, shows_source=True, is_video=True)) == [
        "dni-deploy", "video", "my sr.dni", "films/in.mp4", "-o", "in-dni.mkv",
        "--alpha", "psnr=0.1,gan=0.2,art=0.7", "--alpha-for", "norm:*=0.2",
    ]  # fmt: skip
    assert " run 'my sr.dni' in.png -o in-dni.png " in video.format_setting(alpha, shows_source=False, is_video=False)
    assert " video 'my sr.dni' in.mp4 -o in-dni.mkv " in video.format_setting(alpha, shows_source=False, is_video=True)
    controlled = CommandLines("sr.dni").format_setting(alpha, shows_source=True, is_video=False, controls={"sigma": 0.1})
    assert controlled.endswith("art=0.7 --control sigma=0.1")
    assert " run sr.dni x.webp -o x-dni.png " in CommandLines("sr.dni", "x.webp").format_setting(
        alpha, shows_source=True, is_video=False
    )


def test_a_take_is_a_command_with_its_timeline_or_its_file() -> None:
    keyframes = [(f"{frame}f", [0.1 * (frame % 3), 0.3, 1 - 0.3 - 0.1 * (frame % 3)]) for frame in range(0, 30, 5)]
    commands = CommandLines("sr.dni", "in.mp4", True)
    take = AlphaTimeline.from_keyframes(keyframes, NAMES, "hold")
    words = shlex.split(commands.format_take(take, shows_source=True))
    assert words[:7] == ["dni-deploy", "video", "sr.dni", "in.mp4", "-o", "in-dni.mkv", "--alpha"]
    assert AlphaTimeline.parse(words[7], NAMES).to_json() == take.to_json()
    long = AlphaTimeline.from_keyframes([(f"{frame}f", [1.0, 0.0, 0.0]) for frame in range(200)], NAMES, "hold")
    assert commands.format_take(long, shows_source=True).endswith(" --alpha alpha.json")


def test_shares_are_read_back_bit_for_bit() -> None:
    for values in ((0.1, 0.9), (1 / 3, 1 - 1 / 3), (0.3, 0.7000000001), (1.0, 0.0)):
        text = format_alpha(NAMES[:2], values)
        assert Coefficients.parse(text, NAMES[:2]).values == values, text
    timeline = AlphaTimeline.from_keyframes([(0.1, 0.1 + 0.2), (1 / 3, 0.7)], NAMES[:2], "linear")
    assert AlphaTimeline.parse(format_timeline(timeline), NAMES[:2]).to_json() == timeline.to_json()
