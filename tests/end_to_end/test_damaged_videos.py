"""Bad films: one sentence, a documented exit code, nothing half-written, no connection ever."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from dni_deploy.errors import (
    EngineError,
    InputError,
    MismatchError,
    PartialResultError,
    RefusedError,
    UnavailableError,
    UsageError,
)
from dni_deploy.video_io.resume import job_folder_path
from tests.support.frame_session import Dimmer
from tests.support.video_clips import Clip, see, sound
from tests.support.video_command import Make

TICKS = Fraction(1, 90000)


@pytest.fixture
def port() -> Iterator[int]:
    """A listener that nobody may talk to."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.05)
        yield listener.getsockname()[1]
        with pytest.raises(TimeoutError):
            listener.accept()


def refused(make: Make, source: Path, kind: type[Exception], message: str, output: str = "out.mp4", **options: object) -> None:
    """It is refused so, and leaves nothing."""
    before = sorted(source.parent.iterdir()) if source.parent.is_dir() else []
    with pytest.raises(kind, match=message) as caught:
        make(source, Path(before[0].parent if before else source.parent) / output, **options)
    assert "\n" not in str(caught.value)
    assert sorted(source.parent.iterdir()) == before


def test_files_that_are_no_films(tmp_path: Path, make: Make) -> None:
    (tmp_path / "text.mp4").write_text("a b c\n" * 500)
    refused(make, tmp_path / "text.mp4", InputError, "could not be opened as a video")
    (tmp_path / "empty.mp4").touch()
    refused(make, tmp_path / "empty.mp4", InputError, "is empty")
    refused(make, tmp_path / "gone.mp4", InputError, "does not exist")
    (tmp_path / "folder").mkdir()
    refused(make, tmp_path / "folder", InputError, "holds no frames")


def test_no_video_and_no_frames(tmp_path: Path, make: Make) -> None:
    with av.open(str(tmp_path / "sound.mp4"), "w") as output:
        stream = output.add_stream("aac", rate=48000, layout="stereo")
        for chunk in sound(0.2):
            output.mux(stream.encode(chunk))
        output.mux(stream.encode(None))
    refused(make, tmp_path / "sound.mp4", InputError, "holds no video stream")
    with av.open(str(tmp_path / "none.mkv"), "w") as output:
        video = output.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        output.start_encoding()
    refused(make, tmp_path / "none.mkv", InputError, "ends before its first frame")


@pytest.mark.parametrize("name", ["in.mp4", "in.m3u8", "in.sdp"])
def test_playlists_are_not_followed(tmp_path: Path, make: Make, port: int, name: str) -> None:
    address = f"http://127.0.0.1:{port}/a.ts"
    lists = {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{address}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile {address}\n",
        "sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "dash": f'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{address}</BaseURL></MPD>',
    }
    for text in lists.values():
        (tmp_path / name).write_text(text)
        refused(make, tmp_path / name, RefusedError, "is a playlist")


@pytest.mark.parametrize("name", ["tcp://127.0.0.1:{port}", "concat:in.mp4|in.mp4", "lavfi:testsrc"])
def test_addresses_are_names_of_files_that_do_not_exist(tmp_path: Path, make: Make, port: int, name: str) -> None:
    with pytest.raises(InputError, match="does not exist"):
        make(Path(name.format(port=port)), tmp_path / "out.mp4")
    assert not list(tmp_path.iterdir())


def test_the_web_is_refused_by_name(tmp_path: Path, make: Make, port: int) -> None:
    with pytest.raises(UsageError, match="is on the web, and nothing is downloaded from there"):
        make(f"http://127.0.0.1:{port}/a.mp4", tmp_path / "out.mp4")
    with pytest.raises(UsageError, match="was an address before it became a Path"):
        make(Path(f"http://127.0.0.1:{port}/a.mp4"), tmp_path / "out.mp4")
    assert not list(tmp_path.iterdir())


def fast_start(source: Path, target: Path) -> Path:
    """The same packets with the index at the beginning."""
    with av.open(str(source)) as given, av.open(str(target), "w", options={"movflags": "faststart"}) as output:
        copies = {stream.index: output.add_stream_from_template(stream) for stream in given.streams}
        for packet in given.demux():
            if packet.dts is not None:
                packet.stream = copies[packet.stream_index]
                output.mux(packet)
    return target


def test_cut_films_keep_their_good_frames(tmp_path: Path, make: Make) -> None:
    plain = Clip(frames=60).write(tmp_path / "plain.mp4")
    (tmp_path / "headless.mp4").write_bytes(plain.read_bytes()[: plain.stat().st_size // 2])
    with pytest.raises(InputError, match="cut off, damaged"):
        make(tmp_path / "headless.mp4", tmp_path / "out.mp4")
    for whole in (fast_start(plain, tmp_path / "fast.mp4"), Clip(frames=60).write(tmp_path / "fast.mkv")):
        data = whole.read_bytes()
        cut = whole.with_stem("cut")
        cut.write_bytes(data[: len(data) * 6 // 10])
        output = tmp_path / f"out{whole.suffix}"
        with pytest.raises(
            PartialResultError, match=r"(\d+) frames were done and are in .*, about (\d+) frames are lost"
        ) as caught:
            make(cut, output)
        kept = see(output)
        assert f"{len(kept.frames)} frames were done" in str(caught.value)
        assert 20 < len(kept.frames) < 60
        assert set(kept.times) <= set(see(whole).times)
        assert not job_folder_path(output).exists()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize("zeros", [False, True])
def test_a_damaged_middle(tmp_path: Path, make: Make, suffix: str, zeros: bool) -> None:
    source = Clip(frames=60, time_base=TICKS if suffix == ".ts" else Fraction(1, 12800)).write(tmp_path / f"in{suffix}")
    whole = see(source)
    data = bytearray(source.read_bytes())
    middle = slice(len(data) // 2, len(data) // 2 + 4000)
    data[middle] = bytes(4000) if zeros else np.random.default_rng(0).bytes(4000)
    source.write_bytes(data)
    output = tmp_path / f"out{'.mkv' if suffix == '.mkv' else '.mp4'}"
    with pytest.raises(PartialResultError, match=r"frames were done and are in .* lost"):
        make(source, output)
    kept = see(output)
    assert 40 <= len(kept.frames) < 60
    start = kept.times[0] - whole.times[0]
    assert set(kept.times) <= {time + start for time in whole.times}  # those that are left are where they were


def test_the_size_changes(tmp_path: Path, make: Make) -> None:
    first = Clip(time_base=TICKS, audio=None).write(tmp_path / "first.ts")
    second = Clip(time_base=TICKS, audio=None, width=96, height=64).write(tmp_path / "second.ts")
    (tmp_path / "both.ts").write_bytes(first.read_bytes() + second.read_bytes())
    refused(
        make, tmp_path / "both.ts", InputError, r"from 64x48 to 96x64 at frame \d+ .* frames were done, nothing was written"
    )


def test_the_size_of_a_bare_stream_changes(tmp_path: Path, make: Make) -> None:
    """It has no timestamps; the time is that of the frame rate."""
    first = Clip(audio=None, frames=10).write(tmp_path / "first.h264")
    second = Clip(audio=None, width=96, height=64, frames=10).write(tmp_path / "second.h264")
    (tmp_path / "both.h264").write_bytes(first.read_bytes() + second.read_bytes())
    refused(make, tmp_path / "both.h264", InputError, r"from 64x48 to 96x64 at frame 10 \(0\.400 s\)")


def test_what_cannot_be_written_is_told_before_the_work(tmp_path: Path, make: Make, engine: Dimmer) -> None:
    source = Clip(frames=3).write(tmp_path / "in.mp4")
    refused(make, source, UsageError, "cannot hold stream 1 .*audio, aac.*mkv", "out.webm", codec="libvpx-vp9", preset=None)
    refused(make, source, UsageError, "does not end in one of", "out.xyz")
    refused(make, source, UsageError, "is the input, too", "in.mp4")
    refused(make, source, UsageError, "no encoder 'nope'", codec="nope")
    refused(make, source, UsageError, "encodes audio", codec="aac")
    refused(make, source, UsageError, "does not take preset=nope", preset="nope")
    refused(make, source, UsageError, "a number that mpeg4 does not have", codec="mpeg4")
    (tmp_path / "there.mp4").touch()
    refused(make, source, UsageError, "exists; give --force", "there.mp4")
    assert engine.refits == 0


def test_hardware_that_is_absent(tmp_path: Path, make: Make) -> None:
    source = Clip(frames=3).write(tmp_path / "in.mp4")
    refused(make, source, UsageError, "no hardware decoder 'nonsense'", hwaccel="nonsense")
    if "vaapi" not in av.codec.hwaccel.hwdevices_available():
        refused(make, source, UnavailableError, "built without the hardware decoder 'vaapi'", hwaccel="vaapi")
    if not Path("/dev/nvidia0").exists():
        refused(make, source, UnavailableError, "'cuda' could not be opened here", hwaccel="cuda")
        refused(
            make, source, UnavailableError, "h264_nvenc could not be opened here", codec="h264_nvenc", crf=None, preset=None
        )


def test_a_network_that_gives_another_size(tmp_path: Path, make: Make, engine: Dimmer, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Clip(frames=3).write(tmp_path / "in.mp4")
    monkeypatch.setattr(engine, "infer", lambda slot, x: x[:, :, :-1])
    refused(make, source, EngineError, "shape")


def test_a_network_without_pictures(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from dni_deploy.signature import Signature
    from tests.support import frame_session

    source = Clip(frames=3).write(tmp_path / "in.mp4")
    monkeypatch.setattr(frame_session, "Signature", lambda **fields: Signature(kind="latent"))
    refused(make, source, MismatchError, "from noise")
