"""Several videos into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dni_deploy.api import video as verb
from dni_deploy.api.video import VideoReport
from dni_deploy.api.videos import plan_outputs, videos
from dni_deploy.errors import PartialResultError, UsageError
from dni_deploy.video_io.encoder import EncoderOptions
from tests.support.frame_session import Dimmer, opener
from tests.support.video_clips import Clip, see
from tests.support.video_command import MEMBERS, named_bundle

FAST = EncoderOptions(preset="ultrafast")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "open_session", opener(Dimmer((1.0, 0.0)), MEMBERS))


@pytest.mark.usefixtures("opened")
def test_each_goes_into_the_folder(tmp_path: Path) -> None:
    sources = [Clip(frames=3, audio=None).write(tmp_path / name) for name in ("b.mkv", "c.MP4")]
    reports = videos(named_bundle(), sources, tmp_path / "out", 1.0, encoder=FAST)
    assert [Path(report.output).name for report in reports] == ["b.mkv", "c.mp4"]
    assert all(len(see(Path(report.output)).frames) == 3 for report in reports)


@pytest.mark.usefixtures("opened")
def test_one_that_cannot_be_read_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 100)
    good = Clip(frames=3, audio=None).write(tmp_path / "good.mp4")
    (tmp_path / "out").mkdir()
    with pytest.raises(PartialResultError, match=r"1 of 2 videos were done whole\. .*bad\.mp4 could not be opened"):
        videos(named_bundle(), [tmp_path / "bad.mp4", good], tmp_path / "out", 1.0, encoder=FAST)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.mp4"]


def test_outputs_are_planned_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Several videos need a folder"):
        plan_outputs([Path("a.mp4")], tmp_path / "absent.mp4")
    assert plan_outputs([Path("a.mp4")], tmp_path / "absent") == {Path("a.mp4"): tmp_path / "absent" / "a.mp4"}
    with pytest.raises(UsageError, match=r"Two videos would become .*a\.mp4"):
        plan_outputs([Path("x/a.mp4"), Path("y/a.mp4")], tmp_path)
    assert plan_outputs([Path("x/a.ogv")], tmp_path) == {Path("x/a.ogv"): tmp_path / "a.mkv"}
    (tmp_path / "a.mp4").touch()
    with pytest.raises(UsageError, match=r"a\.mp4 exists; give --force"):
        plan_outputs([Path("x/a.mp4")], tmp_path)
    assert plan_outputs([Path("x/a.mp4")], tmp_path, force=True)


@pytest.mark.usefixtures("opened")
def test_a_stopped_run_resumes_with_the_video_at_which_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs that are complete stay as they are; other settings are another run."""
    sources = [Clip(frames=3, audio=None).write(tmp_path / name) for name in ("a.mp4", "b.mp4")]
    out = tmp_path / "out"
    out.mkdir()
    calls: list[str] = []

    def stop_at_b(bundle: object, source: Path, *arguments: Any, **options: Any) -> VideoReport:
        calls.append(source.name)
        if calls == ["a.mp4", "b.mp4"]:
            raise KeyboardInterrupt
        return verb.video(bundle, source, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("dni_deploy.api.videos.video", stop_at_b)
    with pytest.raises(KeyboardInterrupt):
        videos(named_bundle(), sources, out, 1.0, encoder=FAST)
    first = (out / "a.mp4").read_bytes()
    with pytest.raises(UsageError, match=r"a\.mp4 exists"):
        videos(named_bundle(), sources, out, 0.5, encoder=FAST)
    reports = videos(named_bundle(), sources, out, 1.0, encoder=FAST)
    assert calls == ["a.mp4", "b.mp4", "b.mp4"]
    assert [Path(report.output).name for report in reports] == ["b.mp4"]
    assert sorted(path.name for path in out.iterdir()) == ["a.mp4", "b.mp4"]
    assert (out / "a.mp4").read_bytes() == first
