"""AlphaTimeline: every notation of keyframes, interpolation between them, and a one-line error for every invalid one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dni_deploy.alpha import keyframes
from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.timeline import AlphaTimeline
from dni_deploy.errors import CoefficientsError, DniError, InputError, LimitError, UsageError

TWO, THREE = ("psnr", "gan"), ("a", "b", "c")
ISSUE = "0:gan=0, 2.5s:gan=1, 4s:gan=0.3"
CLOSE = 2.0**-51
"""The fraction and the product are rounded once each."""


@pytest.mark.parametrize(
    ("seconds", "gan_value"),
    [(-1, 0), (0, 0), (1.25, 0.5), (2.5, 1), (3.25, 0.65), (4, 0.3), (1e9, 0.3)],
)
def test_linear_keyframes_from_text(seconds: float, gan_value: float) -> None:
    assert AlphaTimeline.parse(ISSUE, TWO).at(seconds, 0).values == pytest.approx((1 - gan_value, gan_value), abs=CLOSE)


def test_keyframes_are_exact() -> None:
    timeline = AlphaTimeline.parse("0.1:0.2,0.3,0.5, 0.7:0.1,0.1,0.8, 1.3:c=1", THREE)
    assert timeline.at(0.1, 0).values == (0.2, 0.3, 0.5)
    assert timeline.at(0.7, 0).values == (0.1, 0.1, 0.8)
    assert timeline.at(1.3, 0) == Coefficients.one_hot("c", THREE)


@pytest.mark.parametrize(
    ("text", "moments"),
    [
        ("0:1, 1:0", [0, 1]),
        ("0s:1, 1.5s:0", [0, 1.5]),
        ("0:00:1, 1:02.5:0", [0, 62.5]),
        ("0:1, 1:00:02.5:0", [0, 3602.5]),
        (" 0 : 1 ,\n .5 : 0 ", [0, 0.5]),
        ("1e-3:1, 1e3s:0", [0.001, 1000]),
    ],
)
def test_every_form_of_a_time_is_parsed(text: str, moments: list[float]) -> None:
    timeline = AlphaTimeline.parse(text, TWO)
    assert (timeline.unit, timeline.times.tolist()) == ("seconds", moments)
    assert timeline.coefficients.tolist() == [[1, 0], [0, 1]]


def test_frame_times_need_a_rate_only_beside_seconds() -> None:
    timeline = AlphaTimeline.parse("0f:1, 75f:0", TWO)
    assert timeline.unit == "frames"
    assert timeline.at(1e9, 30).values == pytest.approx((0.6, 0.4), abs=CLOSE)  # the time is ignored
    mixed = AlphaTimeline.parse("0:1, 75f:0", TWO, fps=30)
    assert mixed.times.tolist() == [0, 2.5]
    assert mixed.at(1.25, 0).values == (0.5, 0.5)
    for fps in (None, 0, -1, math.nan):
        with pytest.raises(UsageError, match="mixes seconds and frames"):
            AlphaTimeline.parse("0:1, 75f:0", TWO, fps=fps)


def test_a_text_without_times_is_a_constant() -> None:
    for text in ("0.3", "psnr=0.3", "gan=0.7", "0.3,0.7"):
        timeline = AlphaTimeline.parse(text, TWO)
        assert timeline.at(-5, 0) == timeline.at(99, 7)
        assert timeline.at(0, 0).values == pytest.approx((0.3, 0.7), abs=CLOSE)
    fixed = Coefficients.parse(0.25, TWO)
    assert AlphaTimeline.from_coefficients(fixed).at(3, 3) == fixed


def test_interpolation_between_keyframes() -> None:
    def gan_at(kind: str, seconds: float) -> float:
        return AlphaTimeline.from_keyframes([(0, 1), (1, 0)], TWO, kind).at(seconds, 0).values[0]

    assert gan_at("linear", 0.25) == 0.75
    assert [gan_at("hold", seconds) for seconds in (0, 0.999, 1)] == [1, 1, 0]
    assert gan_at("smooth", 0.25) == 1 - (3 * 0.25**2 - 2 * 0.25**3)
    assert [gan_at("smooth", seconds) for seconds in (0, 0.5, 1)] == [1, 0.5, 0]
    assert AlphaTimeline.parse("0:1, 1:0; smooth", TWO).interpolation == "smooth"
    assert AlphaTimeline.parse("0:1, 1:0; smooth", TWO, interpolation="hold").interpolation == "hold"
    with pytest.raises(UsageError, match="no interpolation 'cubic'"):
        gan_at("cubic", 0)


def test_a_loop_continues_without_a_gap() -> None:
    timeline = AlphaTimeline.parse("1:1, 2:0, 3:0.5; loop", TWO)
    assert timeline.loop
    for cycle in range(5):
        assert timeline.at(1.5 + 2 * cycle, 0).values == (0.5, 0.5)
        assert timeline.at(2 + 2 * cycle, 0).values == (0, 1)
    assert timeline.at(3, 0).values == (1, 0)  # the end of a cycle is the start of the next
    assert timeline.at(0, 0).values == (1, 0)  # before the first keyframe
    assert not AlphaTimeline.parse("1:1, 2:0; loop", TWO, loop=False).loop
    frames = AlphaTimeline.parse("0f:1, 4f:0; hold; loop", TWO)
    assert [frames.at(0, frame).values[0] for frame in range(9)] == [1] * 9
    with pytest.raises(UsageError, match="at least 2"):
        AlphaTimeline.parse("0:1; loop", TWO)


simplex = st.lists(st.integers(0, 1000), min_size=3, max_size=3).filter(any).map(lambda w: [x / sum(w) for x in w])


@given(
    st.lists(simplex, min_size=1, max_size=8),
    st.sampled_from(keyframes.INTERPOLATIONS),
    st.booleans(),
    st.lists(st.floats(-10, 1000), max_size=20),
)
def test_every_point_is_on_the_simplex(values: list[Any], kind: str, loop: bool, times: list[float]) -> None:
    timeline = AlphaTimeline.from_keyframes(
        [(0.3 * index, alpha) for index, alpha in enumerate(values)], THREE, kind, loop and len(values) > 1
    )
    for time in times:
        point = timeline.at(time, 0)
        assert abs(math.fsum(point.values) - 1) <= 2**-51
        assert all(0 <= value <= 1 for value in point.values)
        assert Coefficients.parse(point, THREE) == point


def test_json_round_trip(tmp_path: Path) -> None:
    for timeline in (
        AlphaTimeline.from_keyframes(
            [(0.1, [0.1, 0.2, 0.7]), (1 / 3, "b=1"), (1e3, {"a": 0.5, "c": 0.5})], THREE, "smooth", True
        ),
        AlphaTimeline.from_keyframes([("0f", "a=1"), ("75f", "b=1")], THREE, "hold"),
    ):
        file = tmp_path / "timeline.json"
        file.write_text(json.dumps(timeline.to_json()))
        timeline_read = AlphaTimeline.read(file, THREE)
        assert timeline_read.to_json() == timeline.to_json()
        assert timeline_read.times.tobytes() == timeline.times.tobytes()
        assert timeline_read.coefficients.tobytes() == timeline.coefficients.tobytes()
        assert timeline_read.at(0.7, 33) == timeline.at(0.7, 33)


def test_hand_written_json_is_read(tmp_path: Path) -> None:
    file = tmp_path / "any.name"
    file.write_bytes(
        b'\xef\xbb\xbf{"members": ["gan", "psnr"], "keyframes": [{"time": 0, "alpha": 0.25}, {"time": "1:02.5", "alpha": {"gan": 1}},'
        b' {"time": "70s", "alpha": [0.5, 0.5]}]}'
    )
    timeline = AlphaTimeline.read(file, TWO)
    assert timeline.times.tolist() == [0, 62.5, 70]
    assert timeline.coefficients.tolist() == [[0.75, 0.25], [0, 1], [0.5, 0.5]]  # 0.25 belongs to the first member of the file
    assert (timeline.interpolation, timeline.loop) == ("linear", False)


@pytest.mark.parametrize(
    ("text", "unit", "times", "values"),
    [
        ("time,psnr,gan\n0,1,0\n2.5,0,1\n", "seconds", [0, 2.5], [[1, 0], [0, 1]]),
        ("frame,gan,psnr\r\n0,0,1\r\n\r\n75f,1,0\r\n", "frames", [0, 75], [[1, 0], [0, 1]]),
        ("time;gan\n0;0\n1:02.5;0.25", "seconds", [0, 62.5], [[1, 0], [0.75, 0.25]]),
        ("Time\tpsnr\tgan\n0\t\t0.5\n", "seconds", [0], [[0.5, 0.5]]),
        ('"time","psnr"\n"0","0.5"\n', "seconds", [0], [[0.5, 0.5]]),
    ],
)
def test_csv_files_are_read(tmp_path: Path, text: str, unit: str, times: list[float], values: list[list[float]]) -> None:
    file = tmp_path / "timeline.csv"
    file.write_bytes(text.encode())
    timeline = AlphaTimeline.read(file, TWO)
    assert (timeline.unit, timeline.times.tolist(), timeline.coefficients.tolist()) == (unit, times, values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        (" ; loop", "empty"),
        (":", "Keyframe 1: '' is not a time"),
        ("gan=0, 1:gan=1", "no time"),
        ("0:gan=0, 2:gan=1, 1:gan=0", "Keyframe 3 is at 1s, before keyframe 2 at 2s"),
        ("0:gan=0, 60:gan=1, 1:00:gan=0", "Keyframe 3 is at 60s, as keyframe 2 is"),
        ("0:gan=0, 2:other=1", "Keyframe 2 at 2s: Alpha names 'other'"),
        ("0:gan=0, 2:gan=1.5", "Keyframe 2 at 2s: .* outside 0 to 1"),
        ("0:gan=-0.1", "Keyframe 1 at 0s: .* outside"),
        ("0:gan=nan", "Keyframe 1 at 0s: .* finite"),
        ("0:psnr=0.7,gan=0.7", "Keyframe 1 at 0s: The shares sum to 1.4"),
        ("0:gan", "Keyframe 1 at 0s: Alpha is the name of a member; for that member alone write gan=1"),
        ("0:", "Keyframe 1 at 0s: .*not a number"),
        ("0:1,", "Keyframe 1 at 0s: .*not a number"),
        ("-1:gan=0", "Keyframe 1: The time -1 is not"),
        ("nan:gan=0", "Keyframe 1: 'nan' is not a time"),
        ("inf:gan=0", "Keyframe 1: 'inf' is not a time"),
        ("1e999:gan=0", "Keyframe 1: The time inf is not"),
        ("1.5f:gan=0", "1.5f is not a frame"),
        ("1:99:gan=0", "'1:99' is not a time"),
        ("0:gan=0; cubic", "got 'cubic'"),
        ("sine(period=1)", "names"),
        ("0:\x1b[31m=1", "names"),
    ],
)
def test_malformed_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        AlphaTimeline.parse(text, TWO)
    assert str(caught.value).isprintable()
    assert caught.value.exit_code == 2


GOOD = '{"time": 0, "alpha": 0.5}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "header"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"{", "not JSON"),
        (b"[1, 2]", "list"),
        (b'{"keyframes": []}', "empty"),
        (b'{"keyframes": 3}', "list"),
        (b"[" * 100_000, "not JSON"),
        (b'{"keyframes": [3]}', "Keyframe 1 is not an object"),
        (b'{"keyframes": [{"alpha": 0.5}]}', "Keyframe 1 is to have either"),
        (b'{"keyframes": [{"time": 0, "frame": 0, "alpha": 0.5}]}', "Keyframe 1 is to have either"),
        (b'{"keyframes": [{"time": null, "alpha": 0.5}]}', "Keyframe 1: None is not a time"),
        (b'{"keyframes": [{"time": NaN, "alpha": 0.5}]}', "Keyframe 1: 'nan' is not a time"),
        (b'{"keyframes": [{"time": 0, "alpha": NaN}]}', "Keyframe 1 at 0s: .*finite"),
        (b'{"keyframes": [{"time": 0, "alpha": {"psnr": 1, "psnr": 0}}]}', "'psnr' twice"),
        (b'{"keyframes": [{"time": 0, "alpha": null}]}', "Keyframe 1 at 0s: None in alpha"),
        (f'{{"schema": 2, "keyframes": [{GOOD}]}}'.encode(), "schema is 2"),
        (f'{{"members": ["x", "gan"], "keyframes": [{GOOD}]}}'.encode(), "members 'x', 'gan'"),
        (f'{{"members": 3, "keyframes": [{GOOD}]}}'.encode(), "list of names"),
        (f'{{"loop": 1, "keyframes": [{GOOD}]}}'.encode(), "true or false"),
        (f'{{"interpolation": ["x"], "keyframes": [{GOOD}]}}'.encode(), "no interpolation"),
        (f'{{"speed": 2, "keyframes": [{GOOD}]}}'.encode(), "no 'speed'"),
        (f'{{"keyframes": [{GOOD}, {GOOD}]}}'.encode(), "Keyframe 2 is at 0s, as keyframe 1"),
        (b'{"keyframes": [{"frame": 1.5, "alpha": 0.5}]}', "1.5f is not a frame"),
        (b'{"keyframes": [{"frame": 1' + b"0" * 5000 + b', "alpha": 0.5}]}', "not JSON|from 0 on"),
        (b"time\n0\n", "header"),
        (b"time,psnr,psnr\n0,1,0\n", "twice"),
        (b"time,psnr\n", "empty"),
        (b"time,other\n0,1\n", "Keyframe 1 at 0s: Alpha names 'other'"),
        (b"time,psnr,gan\n0,1,0\n1,1\n", "Keyframe 2 .line 3. has 2 cells"),
        (b"time,psnr,gan\n1,1,0\n0,0,1\n", "Keyframe 2 is at 0s, before"),
        (b"time,psnr,gan\nsoon,1,0\n", "Keyframe 1: 'soon' is not a time"),
        (b"time,psnr,gan\n0,,\n", "Keyframe 1 at 0s: Alpha is empty"),
        (b'time,psnr,gan\n0,"1\n', "line 2 is not CSV|cells"),
        (b"time,psnr\n0," + b"1" * 200_000, "not CSV"),
        (b"frame,psnr\n0.5,1\n", "0.5f is not a frame"),
        (b"\x89PNG\r\n\x1a\n\x00", "UTF-8"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        AlphaTimeline.read(file, TWO)
    assert str(file) in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    assert caught.value.exit_code == 3


def test_missing_files_are_refused(tmp_path: Path) -> None:
    for path, message in [
        (tmp_path / "absent.json", "does not exist"),
        (tmp_path, "not a file"),
        ("nul\0", "does not exist|cannot"),
    ]:
        with pytest.raises(InputError, match=message):
            AlphaTimeline.read(path, TWO)


def test_too_many_keyframes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys.csv"
    file.write_text("time,psnr\n0,1\n1,0\n2,1\n")
    monkeypatch.setattr(keyframes, "MAX_KEYFRAMES", 2)
    with pytest.raises(LimitError, match="at most 2 keyframes"):
        AlphaTimeline.read(file, TWO)
    with pytest.raises(LimitError, match="at most 2 keyframes"):
        AlphaTimeline.parse("0:1, 1:0, 2:1", TWO)
    with open(file, "wb") as stream:
        stream.truncate(keyframes.MAX_TEXT_FILE_BYTES + 1)
    with pytest.raises(LimitError, match="67,108,864 bytes") as caught:
        AlphaTimeline.read(file, TWO)
    assert caught.value.exit_code == 6


def test_extrapolation_is_refused_unless_enabled() -> None:
    timeline = AlphaTimeline.parse("0:gan=0, 1:gan=2", TWO, extrapolate=True)
    assert timeline.at(0.75, 0).values == pytest.approx((-0.5, 1.5), abs=CLOSE)
    with pytest.raises(CoefficientsError):
        AlphaTimeline.parse("0:gan=0, 1:gan=2", TWO)


def test_a_time_that_is_not_finite_is_refused() -> None:
    with pytest.raises(UsageError, match="finite"):
        AlphaTimeline.parse("0:1", TWO).at(math.nan, 3)


def test_timeline_arrays_are_read_only() -> None:
    timeline = AlphaTimeline.parse(ISSUE, TWO)
    with pytest.raises(ValueError):
        timeline.times[0] = 1
    with pytest.raises(ValueError):
        timeline.coefficients[0, 0] = 1


@given(st.text(alphabet=st.sampled_from("0123456789.:,;=sfpnrga-e \n\x00é"), max_size=40), st.none() | st.floats())
def test_any_text_gives_a_timeline_or_one_line_error(text: str, fps: float | None) -> None:
    def attempt(make: Callable[[], AlphaTimeline]) -> str:
        try:
            return str(make().at(1.0, 1))
        except DniError as error:
            return str(error)

    assert attempt(lambda: AlphaTimeline.parse(text, TWO, fps=fps)).isprintable()


@given(st.binary(max_size=60) | st.text(alphabet=st.sampled_from('{}[]":,keyframstlph0.1\n'), max_size=60).map(str.encode))
def test_any_file_gives_a_timeline_or_one_line_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any"
    file.write_bytes(content)
    message = ""
    try:
        AlphaTimeline.read(file, TWO)
    except DniError as error:
        message = str(error)
    assert message.isprintable() or not message
