"""The renderer: a preview is rendered on request if it differs, with one alpha, and only the newest is kept."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("uvicorn", reason="the page's server needs the extra `serve`")

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.timeline import AlphaTimeline
from dni_deploy.errors import EngineError
from dni_deploy.session.session import Session
from dni_deploy.webui.frame_source import StillImage
from dni_deploy.webui.renderer import EncodedPreview, Renderer
from tests.dni_deploy.webui.page_server import NAMES, SIZE, MovingSource, gray, open_renderer


def wait_until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


class Viewer:
    """Requests previews, as a page does."""

    def __init__(self, renderer: Renderer, *views: str) -> None:
        self.renderer, self.views, self.woken = renderer, frozenset(views), threading.Event()
        renderer.add_client(id(self), self.woken.set)

    def next(self, timeout: float = 5.0) -> EncodedPreview | None:
        before = self.renderer.latest_preview
        self.renderer.request_frame(id(self), self.views)
        end = time.monotonic() + timeout
        while self.renderer.latest_preview is before and time.monotonic() < end:
            self.woken.wait(0.02)
            self.woken.clear()
        return None if self.renderer.latest_preview is before else self.renderer.latest_preview


def level(data: bytes) -> float:
    with Image.open(io.BytesIO(data)) as image:
        return float(np.asarray(image).mean())


def test_a_still_image_is_rendered_once_and_again_when_alpha_changes() -> None:
    with open_renderer() as renderer:
        viewer = Viewer(renderer)
        first = viewer.next()
        assert first is not None
        assert level(first.jpegs["blend"]) == pytest.approx(200, abs=1)  # JPEG of one gray level: within rounding
        assert viewer.next(0.2) is None
        assert renderer.frame_count == 1
        renderer.shared_alpha.set_alpha({"bright": 0.5, "dark": 0.5})
        wait_until(lambda: renderer.frame_count == 2)
        second = renderer.latest_preview
        assert second is not None
        assert second.metadata.coefficients == (0.5, 0.5)
        assert second.metadata.generation > first.metadata.generation
        assert level(second.jpegs["blend"]) == pytest.approx(120, abs=1)


def test_nothing_is_rendered_without_a_request() -> None:
    with open_renderer(source=MovingSource()) as renderer:
        time.sleep(0.1)
        renderer.shared_alpha.set_alpha({"dark": 1.0})
        time.sleep(0.1)
        assert renderer.frame_count == 0


def test_a_video_keeps_its_own_pace_and_the_largest_frame_rate() -> None:
    with open_renderer(source=MovingSource(1000), fps=50) as renderer:
        viewer = Viewer(renderer)
        viewer.next()
        start, frame_count = time.monotonic(), renderer.frame_count
        while time.monotonic() - start < 0.5:
            assert viewer.next() is not None
        assert renderer.frame_count - frame_count <= 50 * (time.monotonic() - start) + 2
        first = renderer.latest_preview
        assert first is not None
        renderer.pause(True)
        viewer.next(0.1)
        assert viewer.next(0.2) is None
        renderer.shared_alpha.set_alpha({"dark": 1.0})
        changed = viewer.next()
        assert changed is not None
        assert changed.metadata.coefficients == (0.0, 1.0)


def test_views_are_rendered_on_request() -> None:
    with open_renderer(source=MovingSource()) as renderer:
        plain = Viewer(renderer).next()
        assert plain is not None
        assert set(plain.jpegs) == {"blend"}
        renderer.shared_alpha.set_alpha({"bright": 0.5, "dark": 0.5})
        viewer = Viewer(renderer, "before", "pixels")
        wait_until(lambda: (preview := viewer.next()) is not None and set(preview.jpegs) == {"blend", "before", "pixels"})
        preview = renderer.latest_preview
        assert preview is not None
        # The engine is linear, so blending weights and blending pixels agree here, up to the rounding of each output.
        assert level(preview.jpegs["pixels"]) == pytest.approx(level(preview.jpegs["blend"]), abs=1)
        assert level(preview.jpegs["before"]) == pytest.approx(200, abs=1)
        assert renderer.status[1]["pixels"] == "ready"


def test_a_timeline_is_followed_until_alpha_is_set() -> None:
    timeline = AlphaTimeline.parse("0:bright=1, 0.2s:bright=0; loop", NAMES[:2])
    with open_renderer(timeline=timeline) as renderer:
        viewer = Viewer(renderer)
        coefficients_seen = {preview.metadata.coefficients for _ in range(10) if (preview := viewer.next()) is not None}
        assert len(coefficients_seen) >= 8
        assert renderer.status[1]["follows"] is True
        renderer.shared_alpha.set_alpha({"bright": 0.25, "dark": 0.75}, "somebody")
        wait_until(
            lambda: (
                viewer.next(0.1),
                renderer.latest_preview and renderer.latest_preview.metadata.coefficients == (0.25, 0.75),
            )[1]
        )
        assert viewer.next(0.2) is None
        assert renderer.status[1]["follows"] is False
        renderer.follow_timeline(True)
        assert viewer.next() is not None


def test_a_slew_limit_renders_every_step() -> None:
    with open_renderer(slew=5.0) as renderer:
        viewer = Viewer(renderer)
        viewer.next()
        viewer.next(0.05)
        renderer.shared_alpha.set_alpha({"dark": 1.0})
        shares = []
        while not shares or shares[-1] != (0.0, 1.0):
            preview = viewer.next(2.0)
            assert preview is not None
            shares.append(preview.metadata.coefficients)
        assert len(shares) > 3
        assert shares == sorted(shares, reverse=True)


def test_another_source_is_shown_at_once_and_the_one_before_closed() -> None:
    first, dropped = MovingSource(), MovingSource()
    with open_renderer(source=first) as renderer:
        viewer = Viewer(renderer)
        viewer.next()
        renderer.replace_source(dropped)
        viewer.next()
        renderer.replace_source(StillImage(gray(50), "another", SIZE))
        wait_until(
            lambda: (
                viewer.next(0.1),
                level(renderer.latest_preview.jpegs["blend"]) < 60 if renderer.latest_preview else False,
            )[1]
        )
        assert (first.closed, dropped.closed) == (0, 1)
        assert renderer.status[1]["source"] == "another"
        assert not renderer.status[1]["is_first_source"]
        renderer.restore_source()
        wait_until(
            lambda: (viewer.next(0.1), renderer.latest_preview and level(renderer.latest_preview.jpegs["blend"]) > 100)[1]
        )
        assert renderer.status[1]["source"] == "a clock"
        assert renderer.status[1]["is_first_source"]
    assert (first.closed, dropped.closed) == (1, 1)


def test_a_network_error_is_reported_and_rendering_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_renderer(source=MovingSource()) as renderer:
        viewer = Viewer(renderer)
        viewer.next()
        render, calls = renderer.session.render, []

        def fails(_: Session, frame: np.ndarray) -> object:
            calls.append(1)
            if len(calls) == 1:
                raise EngineError("the network broke.")
            return render(frame)

        monkeypatch.setattr(Session, "render", fails)
        renderer.request_frame(id(viewer), viewer.views)
        wait_until(lambda: renderer.status[1]["problem"] == "the network broke.")
        assert viewer.next(3.0) is not None
        wait_until(lambda: renderer.status[1]["problem"] == "")


def test_render_uses_one_alpha_per_frame_under_constant_changes() -> None:
    with open_renderer(source=MovingSource(), fps=240) as renderer:
        viewer, done = Viewer(renderer), threading.Event()

        def flood() -> None:
            number = 0
            while not done.is_set():
                number += 1
                share = (number % 101) / 100
                renderer.shared_alpha.set_alpha(Coefficients.parse([share, 1 - share], NAMES[:2]))

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            last = 0
            for _ in range(40):
                preview = viewer.next()
                assert preview is not None
                assert preview.metadata.sequence > last
                last = preview.metadata.sequence
                expected = 200 * (preview.metadata.coefficients[0] + 0.2 * preview.metadata.coefficients[1])
                assert level(preview.jpegs["blend"]) == pytest.approx(expected, abs=1.5)  # rounding, then JPEG
        finally:
            done.set()
            thread.join()


def test_following_never_overwrites_what_somebody_else_sets() -> None:
    """A control that is moved between the look at the timeline and its setting: the control counts."""
    timeline = AlphaTimeline.parse("0:bright=1, 100s:bright=0", NAMES[:2])
    with open_renderer(source=MovingSource(), timeline=timeline) as renderer:
        viewer = Viewer(renderer)
        viewer.next()
        assert renderer.status[1]["follows"]
        look = renderer._alpha_to_follow

        def look_and_be_late(*arguments: object) -> Coefficients | None:
            requested = look(*arguments)  # type: ignore[arg-type]
            if renderer._followed:
                renderer.shared_alpha.set_alpha({"bright": 0.25, "dark": 0.75}, "page 1")
            return requested

        renderer._alpha_to_follow = look_and_be_late  # type: ignore[method-assign]
        wait_until(lambda: (viewer.next(0.1), not renderer.status[1]["follows"])[1])
        viewer.next()
        assert renderer.shared_alpha.state.requested.values == (0.25, 0.75)
