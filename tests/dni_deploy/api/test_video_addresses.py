"""video from and to addresses: staged on the local disk, uploaded whole, resumed, and named in every message."""

from __future__ import annotations

from pathlib import Path

import pytest

from dni_deploy.api import video as verb
from dni_deploy.api.video_shards import video_shard
from dni_deploy.api.videos import videos
from dni_deploy.errors import InputError, UsageError
from dni_deploy.session.options import SessionOptions
from dni_deploy.video_io.encoder import EncoderOptions
from tests.support.frame_session import Dimmer
from tests.support.object_stores import CountingStore, store
from tests.support.video_clips import Clip
from tests.support.video_command import Make, engine, make, named_bundle

__all__ = ["engine", "make", "store"]

SOURCE, OUTPUT = "memory://in/a.mkv", "memory://out/b.mkv"


@pytest.fixture
def clip(store: CountingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a clip of 20 frames that is at SOURCE, too; the cache is empty."""
    monkeypatch.setenv("DNI_CACHE", str(tmp_path / "cache"))
    path = Clip(frames=20, audio=None).write(tmp_path / "a.mkv")
    store.put(SOURCE, path.read_bytes())
    return path


def list_staged(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_a_video_is_the_same_and_leaves_no_copy(clip: Path, store: CountingStore, tmp_path: Path, make: Make) -> None:
    make(clip, tmp_path / "b.mkv", 0.5)
    report = make(SOURCE, OUTPUT, 0.5)
    assert store.get(OUTPUT) == (tmp_path / "b.mkv").read_bytes()
    assert (report.source, report.output, report.frames) == (SOURCE, OUTPUT, 20)
    assert list_staged(tmp_path) == []
    with pytest.raises(UsageError, match=r"^memory://out/b.mkv exists; give --force to replace it"):
        make(SOURCE, OUTPUT, 0.5)
    make(SOURCE, tmp_path / "c.mkv", 0.5)
    make(clip, OUTPUT, 0.5, force=True)
    assert store.get(OUTPUT) == (tmp_path / "c.mkv").read_bytes()


def test_file_addresses_are_paths(clip: Path, tmp_path: Path, make: Make) -> None:
    target = tmp_path / "d d.mkv"
    assert make(clip.as_uri(), target.as_uri(), 0.5).output == str(target)
    before = target.read_bytes()
    with pytest.raises(UsageError, match=r"d d\.mkv exists"):
        make(clip.as_uri(), target.as_uri(), 0.2)
    assert target.read_bytes() == before
    assert list_staged(tmp_path) == []


def test_an_upload_that_fails_costs_the_upload_alone(
    clip: Path, store: CountingStore, tmp_path: Path, make: Make, engine: Dimmer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.failures["put_file"] = [OSError("503 slow down")] * 4
    with pytest.raises(InputError, match=r"^memory://out/b.mkv cannot be read or written \(OSError: 503 slow down\)"):
        make(SOURCE, OUTPUT, 0.5)
    assert "a.mkv" in list_staged(tmp_path)
    assert store.list_all() == ["/in/a.mkv"]
    opened = []
    monkeypatch.setattr(verb, "open_session", lambda *arguments, **keywords: opened.append(1))
    report = make(SOURCE, OUTPUT, 0.5)
    assert (report.frames, report.resumed_frames, opened) == (20, 20, [])
    assert store.calls["get_file"] == 1
    make_whole = store.get(OUTPUT)
    assert make_whole[:4] == b"\x1aE\xdf\xa3"
    assert list_staged(tmp_path) == []


def test_a_source_that_was_replaced_is_fetched_again(clip: Path, store: CountingStore, tmp_path: Path, make: Make) -> None:
    store.failures["put_file"] = [OSError("503")] * 4
    with pytest.raises(InputError):
        make(SOURCE, OUTPUT, 0.5)
    store.put(SOURCE, Clip(frames=5, audio=None).write(tmp_path / "n.mkv").read_bytes())
    with pytest.raises(UsageError, match="differs in"):
        make(SOURCE, OUTPUT, 0.5)
    assert make(SOURCE, OUTPUT, 0.5, fresh=True).frames == 5


def test_errors_name_addresses(clip: Path, store: CountingStore, tmp_path: Path, make: Make) -> None:
    store.put("memory://in/bad.mkv", b"no video" * 100)
    with pytest.raises(InputError, match=r"memory://in/bad.mkv could not be opened"):
        make("memory://in/bad.mkv", OUTPUT)
    with pytest.raises(InputError, match=r"^memory://in/none.mkv does not exist."):
        make("memory://in/none.mkv", OUTPUT)
    with pytest.raises(InputError, match=r"^memory://in is a folder; name a file."):
        make("memory://in", OUTPUT)
    with pytest.raises(UsageError, match=r"^memory://out/%05d.png names many pictures"):
        make(SOURCE, "memory://out/%05d.png")
    with pytest.raises(UsageError, match=r"^memory://out names no file"):
        make(SOURCE, "memory://out")
    with pytest.raises(UsageError, match=r"memory://x.jsonl is an address, and an alpha log has to be a path"):
        make(SOURCE, OUTPUT, alpha_log="memory://x.jsonl")
    with pytest.raises(UsageError, match=r"Shards meet in a folder beside the output, .* memory://out/b.mkv is an address"):
        video_shard(named_bundle(), SOURCE, OUTPUT, 0.5, shard="1/2")


def test_shards_read_a_source_at_an_address(clip: Path, store: CountingStore, tmp_path: Path, make: Make) -> None:
    make(clip, tmp_path / "whole.mkv", 0.5)
    encoder = EncoderOptions(segment_frames=8, crf=8, preset="ultrafast")
    for shard in ("2/2", "1/2", "join"):
        report = video_shard(named_bundle(), SOURCE, tmp_path / "b.mkv", 0.5, shard=shard, encoder=encoder)
        assert report.source == SOURCE
    assert (tmp_path / "b.mkv").read_bytes() == (tmp_path / "whole.mkv").read_bytes()
    assert list_staged(tmp_path) == []


def test_several_sources_go_into_a_folder(clip: Path, store: CountingStore, tmp_path: Path, make: Make) -> None:
    (tmp_path / "out").mkdir()
    store.put("memory://in/c.mkv", clip.read_bytes())
    encoder = EncoderOptions(segment_frames=8, crf=8, preset="ultrafast")
    reports = videos(named_bundle(), [SOURCE, "memory://in/c.mkv"], tmp_path / "out", 0.5, encoder=encoder)
    assert [Path(report.output).name for report in reports] == ["a.mkv", "c.mkv"]
    with pytest.raises(UsageError, match="memory://out is an address, and the folder for several videos has to be a path"):
        videos(named_bundle(), [SOURCE], "memory://out", 0.5, encoder=encoder)


def test_a_job_that_goes_on_opens_the_plan_that_it_names(
    tmp_path: Path, make: Make, engine: Dimmer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.plan_digest = "1" * 64  # type: ignore[attr-defined]
    clip = Clip(frames=20, audio=None).write(tmp_path / "a.mkv")
    open_session, asked = verb.open_session, []

    def keep_options(bundle: object, options: SessionOptions, **keywords: object) -> object:
        asked.append(options.plan)
        return open_session(bundle, options, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(verb, "open_session", keep_options)

    def stop(done: int, total: int, what: str) -> None:
        if done >= 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(clip, tmp_path / "b.mkv", 0.5, progress=stop)
    for segment in sorted((tmp_path / "b.mkv.dni-part").glob("*.segment"))[1:]:
        segment.unlink()
    assert make(clip, tmp_path / "b.mkv", 0.5).resumed_frames == 8
    assert asked == [None, "1" * 64]
