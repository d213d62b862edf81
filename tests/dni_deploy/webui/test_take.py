"""Takes: what was played is what `video` renders, share for share, whatever the network's pace."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the page's server needs the extra `serve`")
pytest.importorskip("av", reason="takes of videos need the extra `video`")

from websockets.sync.client import ClientConnection, connect

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.log import AlphaLog
from dni_deploy.alpha.timeline import AlphaTimeline
from dni_deploy.webui.frame_source import SourceFrame, StillImage, VideoPosition
from dni_deploy.webui.sources import open_frame_source
from dni_deploy.webui.take import TakeRecorder
from tests.dni_deploy.webui.frame_message import unpack_message
from tests.dni_deploy.webui.page_server import SIZE, TOKEN, PageFixture, gray, serve_page
from tests.dni_deploy.webui.test_video_source import write_video
from tests.support.frame_session import Dimmer

NAMES = ("bright", "dark")
RATE = 25


class Film:
    """A video of 25 frames a second that lasts 4 s; `locate` alone is used."""

    name, is_moving = "a film", True

    def locate(self, seconds: float) -> VideoPosition:
        frame, pass_number = int(seconds * RATE + 1e-6) % 100, int(seconds / 4)
        return VideoPosition(frame, frame / RATE, pass_number)

    def show(self, seconds: float) -> SourceFrame:
        position = self.locate(seconds)
        return SourceFrame(gray(), position.frame + 100 * position.pass_number, position)


def coefficients(share: float) -> Coefficients:
    return Coefficients.parse(share, NAMES)


def read_rows(take: AlphaTimeline) -> list[tuple[float, float]]:
    return [(time, values[0]) for time, values in zip(take.times.tolist(), take.coefficients.tolist(), strict=True)]


def start(recorder: TakeRecorder, source: Any, seconds: float = 1.0) -> None:
    recorder.start(source, seconds, 0, coefficients(0.5))


def test_settings_stand_at_the_frame_of_their_moment() -> None:
    recorder, film = TakeRecorder(NAMES), Film()
    start(recorder, film)
    recorder.record_shown(film, film.show(1.0), 1.0, 0, coefficients(0.5))  # type: ignore[arg-type]
    for sequence, seconds in enumerate((1.1, 1.25, 1.3), 1):
        recorder.record_setting(seconds, sequence, coefficients(0.5 + sequence / 10))
    recorder.stop(1.6)
    expected = [(25, 0.5), (27, 0.6), (31, 0.7), (32, 0.8), (40, 0.8)]
    assert read_rows(recorder.make_timeline()) == expected  # before the frame that has them was rendered
    recorder.record_shown(film, film.show(2.0), 2.0, 3, coefficients(0.8))  # type: ignore[arg-type]
    take = recorder.make_timeline()
    assert read_rows(take) == expected
    assert (take.unit, take.interpolation, take.loop) == ("frames", "hold", False)


def test_a_late_frame_of_another_source_does_not_count() -> None:
    recorder, film, other = TakeRecorder(NAMES), Film(), Film()
    start(recorder, film)
    recorder.record_shown(film, film.show(1.0), 1.0, 0, coefficients(0.5))  # type: ignore[arg-type]
    recorder.record_shown(other, other.show(1.2), 1.2, 0, coefficients(0.9))  # type: ignore[arg-type]
    recorder.stop(1.4)
    assert read_rows(recorder.make_timeline()) == [(25, 0.5), (35, 0.5)]


def test_what_was_shown_counts_on_its_frame() -> None:
    recorder, film = TakeRecorder(NAMES), Film()
    start(recorder, film)
    recorder.record_shown(film, film.show(1.0), 1.0, 0, coefficients(0.5))  # type: ignore[arg-type]
    recorder.record_setting(1.01, 1, coefficients(0.6))  # within frame 25, which was shown without it
    recorder.record_setting(1.045, 2, coefficients(0.7))  # between the look at the clock and at alpha
    recorder.record_shown(film, film.show(1.04), 1.04, 2, coefficients(0.7))  # type: ignore[arg-type]
    assert read_rows(recorder.make_timeline()) == [(25, 0.5), (26, 0.7)]
    recorder.record_setting(1.05, 3, coefficients(0.8))
    assert read_rows(recorder.make_timeline()) == [(25, 0.5), (26, 0.7), (27, 0.8)]
    recorder.record_setting(1.055, 4, coefficients(0.9))
    recorder.record_shown(film, film.show(1.052), 1.052, 4, coefficients(0.9))  # type: ignore[arg-type]
    assert read_rows(recorder.make_timeline()) == [
        (25, 0.5),
        (26, 0.9),
    ]  # the same frame again; nothing of 0.8 is left behind it


def test_a_take_ends_where_the_video_begins_anew() -> None:
    recorder, film = TakeRecorder(NAMES), Film()
    start(recorder, film, 3.9)
    recorder.record_setting(3.93, 1, coefficients(0.6))
    recorder.record_setting(4.1, 2, coefficients(0.7))
    recorder.record_shown(film, film.show(4.2), 4.2, 2, coefficients(0.7))  # type: ignore[arg-type]
    assert not recorder.is_recording
    assert read_rows(recorder.make_timeline()) == [(97, 0.5), (98, 0.6)]


def test_a_slew_limit_records_the_way_that_was_shown() -> None:
    recorder, film = TakeRecorder(NAMES, records_settings=False), Film()
    start(recorder, film)
    recorder.record_setting(1.02, 1, coefficients(1.0))
    for seconds, share in ((1.0, 0.5), (1.04, 0.5), (1.08, 0.5), (1.12, 0.75), (1.16, 1.0), (1.2, 1.0), (1.24, 1.0)):
        recorder.record_shown(film, film.show(seconds), seconds, 1, coefficients(share))  # type: ignore[arg-type]
    recorder.stop(1.24)
    take = recorder.make_timeline()
    assert take.interpolation == "linear"
    assert read_rows(take) == [(25, 0.5), (27, 0.5), (28, 0.75), (29, 1.0), (31, 1.0)]


def test_a_take_of_a_still_image_counts_seconds() -> None:
    recorder, image = TakeRecorder(NAMES), StillImage(gray(), "an image", SIZE)
    start(recorder, image, 7.0)
    recorder.record_setting(7.25, 1, coefficients(0.6))
    recorder.stop(8.0)
    take = recorder.make_timeline()
    assert take.unit == "seconds"
    assert read_rows(take) == [(0.0, 0.5), (0.25, 0.6), (1.0, 0.6)]


def send(page: ClientConnection, **fields: Any) -> None:
    page.send(json.dumps(fields))


def get(live: PageFixture, path: str) -> Any:
    with urllib.request.urlopen(f"{live.origin}/{path}?token={TOKEN}", timeout=5) as answer:
        return json.loads(answer.read())


class Watcher:
    """A page that asks for a frame as soon as one came, and remembers the last shares of each frame of the video."""

    def __init__(self, page: ClientConnection) -> None:
        self.page, self.shown, self.status = page, dict[int, tuple[float, ...]](), dict[str, Any]()
        send(page, next=True)

    def watch(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (rest := end - time.monotonic()) > 0:
            try:
                data = self.page.recv(rest)
            except TimeoutError:
                return
            if isinstance(data, bytes):
                fields, _ = unpack_message(data)
                self.shown[fields["frame"]] = fields["shares"]
                send(self.page, next=True)
            else:
                self.status |= json.loads(data).get("status", {})


@pytest.mark.parametrize("network_s", [pytest.param(0.0, marks=pytest.mark.slow), 0.35])
def test_a_take_is_rendered_again_with_the_shares_that_were_shown(
    network_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten presses in a second, Stop 0.3 s later, with a network faster and slower than the presses, through `video`."""
    from dni_deploy.api.video import video
    from dni_deploy.video_io.encoder import EncoderOptions
    from tests.support import pipe_bundle

    write_video(tmp_path / "film.mkv", 100)
    infer = Dimmer.infer

    def infer_slowly(self: Dimmer, slot: int, x: Any) -> Any:
        time.sleep(network_s)
        return infer(self, slot, x)

    monkeypatch.setattr(Dimmer, "infer", infer_slowly)
    source = open_frame_source(tmp_path / "film.mkv", SIZE)
    settings: list[tuple[float, float]] = []
    with AlphaLog(tmp_path / "show.jsonl", NAMES, "digest") as log, serve_page(2, source, alpha_log=log) as live:
        live.shared_alpha.set_alpha(0.5, "test")
        live.shared_alpha.subscribe(
            lambda state: settings.append((live.renderer._advance_position(), state.requested.values[0]))
        )
        with connect(live.frames) as page:
            watcher = Watcher(page)
            watcher.watch(0.3)
            send(page, record=True)
            watcher.watch(0.1)
            for press in range(1, 11):
                send(page, alpha=(50 + press) / 100, request_id=press)
                watcher.watch(0.1)
            watcher.watch(0.3)
            send(page, record=False)
            watcher.watch(0.2)
            take_file = get(live, "take")
            watcher.watch(2 * network_s + 0.1)
            assert get(live, "take") == take_file  # complete at once, without waiting for the network
            assert watcher.status["recording"] is False
    take = AlphaTimeline.from_keyframes([(f"{row['frame']}f", row["alpha"]) for row in take_file["keyframes"]], NAMES, "hold")
    rows = read_rows(take)
    assert rows[0][1] in (0.5, 0.51)  # on a busy machine the first press may come before a frame is decoded
    assert rows[-1][1] == 0.6
    assert rows[-1][0] > rows[-2][0]  # Stop
    frames = {share: frame for frame, share in reversed(rows)}
    assert [share for _, share in settings] == [(50 + press) / 100 for press in range(1, 11)]
    for (seconds, share), (next_seconds, _) in zip(settings, [*settings[1:], (99.0, 0.0)], strict=True):
        if next_seconds - seconds > 2 / RATE:  # on a busy machine, two may come within a frame
            assert share in frames  # every press, at full precision
            # At the frame of its moment, or behind one shown without it; before, where the decoder was late for the moment.
            assert -5 <= frames[share] - int(seconds * RATE) <= 1

    (tmp_path / "take.json").write_text(json.dumps(take_file))
    bundle = pipe_bundle.write(tmp_path / "pipe.dni", 1, NAMES)
    shown = {entry.frame: entry.coefficients for entry in AlphaLog.read_entries(tmp_path / "show.jsonl")}
    assert len(shown) >= 4
    assert watcher.shown.keys() <= shown.keys()
    for alpha in ("take.json", "show.jsonl"):
        encoder = EncoderOptions(codec="ffv1")
        log_path = tmp_path / f"{alpha}.jsonl"
        video(bundle, tmp_path / "film.mkv", tmp_path / f"{alpha}.mkv", tmp_path / alpha, encoder=encoder, alpha_log=log_path)
        rendered = {entry.frame: entry.coefficients for entry in AlphaLog.read_entries(log_path)}
        assert len(rendered) == 100
        first, last = (rows[0][0], rows[-1][0]) if alpha == "take.json" else (0, 99)
        compared = [frame for frame in shown if first <= frame <= last]
        assert len(compared) >= 3
        assert {frame: rendered[frame] for frame in compared} == {frame: shown[frame] for frame in compared}


def test_playing_a_take_of_a_video_follows_its_frames(tmp_path: Path) -> None:
    write_video(tmp_path / "film.mkv", 25)
    with serve_page(2, open_frame_source(tmp_path / "film.mkv", SIZE)) as live, connect(live.frames) as page:
        watcher = Watcher(page)
        send(page, play=True)
        watcher.watch(0.1)
        assert not live.renderer.status[1]["playing"]  # there is no take
        send(page, record=True)
        for share in (0.25, 0.75):
            send(page, alpha=share)
            watcher.watch(0.15)
        send(page, record=False)
        send(page, play=True)
        watcher.watch(0.2)
        assert live.renderer.status[1]["playing"]
        watcher.shown.clear()
        watcher.watch(1.3)
        take = live.renderer.make_take()
        assert len(watcher.shown) > 5
        for number, shares in watcher.shown.items():
            assert shares == pytest.approx(take.at(0.0, number % 25).values, abs=1e-7)  # of float32 in the message
        send(page, alpha=0.5)
        watcher.watch(0.2)
        assert live.shared_alpha.state.requested.values == (0.5, 0.5)
        assert not live.renderer.status[1]["playing"]  # somebody moved a control
