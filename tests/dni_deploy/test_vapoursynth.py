"""VapourSynth: the filter on blank clips, under a Python that has the wheel.

VapourSynth's wheels are for Python 3.12 and newer. DNI_VAPOURSYNTH_PYTHON may name an interpreter that has it, with onnx,
onnxruntime and the base packages; it then runs the tests of this file in one process, where this interpreter lacks VapourSynth.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
HERE = importlib.util.find_spec("vapoursynth") is not None
OTHER = os.environ.get("DNI_VAPOURSYNTH_PYTHON")

needs_vapoursynth = pytest.mark.skipif(not HERE, reason="VapourSynth is not installed in this Python")


@pytest.mark.skipif(HERE, reason="it is installed here, and the tests below run")
@pytest.mark.skipif(not OTHER, reason="neither VapourSynth nor DNI_VAPOURSYNTH_PYTHON, an interpreter that has it")
def test_this_file_passes_under_an_interpreter_with_vapoursynth() -> None:
    code = "import sys, tests.dni_deploy.test_vapoursynth as t; sys.exit(t.main())"
    child = subprocess.run([OTHER or "", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert child.returncode == 0, child.stdout + child.stderr


def main() -> int:
    """Runs the tests of this file in this interpreter, without pytest's conftest, whose packages may be missing."""
    return int(
        pytest.main(["-q", "-p", "no:cacheprovider", "--noconftest", "-c", os.devnull, "--rootdir", str(ROOT), __file__])
    )


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    pytest.importorskip("onnxruntime")
    from tests.support import pipe_bundle

    folder = tmp_path_factory.mktemp("vapoursynth")
    os.environ["DNI_CACHE"] = str(folder / "cache")
    return {scale: pipe_bundle.write(folder / f"x{scale}.dni", scale) for scale in (1, 2)}


def blank(name: str = "RGB24", **options: Any) -> Any:
    """Returns a clip of 6 frames of 7x5 pixels at 25 fps; a filter gives every pixel a different value."""
    import vapoursynth as vs

    clip = vs.core.std.BlankClip(format=getattr(vs, name), **{"width": 7, "height": 5, "length": 6, "fpsnum": 25, **options})

    def numbered(n: int, f: Any) -> Any:
        out = f.copy()
        for plane in range(clip.format.num_planes):
            values = np.arange(35, dtype=np.float32).reshape(5, 7) * 3 + 40 * plane + n
            np.asarray(out[plane])[:] = values / 255 if clip.format.sample_type == vs.FLOAT else values * (white(clip) // 255)
        out.props["own"] = n
        return out

    return vs.core.std.ModifyFrame(clip, clip, numbered)


def white(clip: Any) -> int:
    return (1 << clip.format.bits_per_sample) - 1 if clip.format.sample_type == 0 else 1


def pixels(frame: Any) -> np.ndarray:
    return np.stack([np.array(frame[plane]) for plane in range(frame.format.num_planes)])


@needs_vapoursynth
@pytest.mark.parametrize("name", ["RGB24", "RGB30", "RGB48", "RGBS", "RGBH"])
@pytest.mark.parametrize("scale", [1, 2])
def test_frames_are_blended_and_have_properties(name: str, scale: int, bundles: Any) -> None:
    from dni_deploy.vapoursynth import dni

    clip = blank(name)
    out = dni(clip, bundles[scale], alpha={"same": 0.5, "half": 0.5}, engine="onnxruntime")
    assert (out.width, out.height, out.num_frames, out.fps, out.format.name) == (7 * scale, 5 * scale, 6, 25, name)
    for n in (0, 5, 2):
        expected = pixels(clip.get_frame(n)).astype(np.float64).repeat(scale, 1).repeat(scale, 2) * 0.75
        frame = out.get_frame(n)
        # Integers: rounded once to whole steps. RGBS: float32, a few units in the last place; RGBH: half a unit of 11 bits.
        tolerance = {"RGBS": 1e-6, "RGBH": 2.0**-12}.get(name, 0.5 + 1e-2)
        assert np.abs(pixels(frame).astype(np.float64) - expected).max() <= tolerance
        assert frame.props["dni_alpha"] == [0.5, 0.5]
        assert frame.props["dni_generation"] == 1
        assert frame.props["own"] == n


@needs_vapoursynth
def test_floats_are_neither_rounded_nor_clipped(bundles: Any) -> None:
    import vapoursynth as vs

    from dni_deploy.vapoursynth import dni

    clip = vs.core.std.BlankClip(format=vs.RGBS, width=4, height=4, length=1, color=[0.123456, 1.5, -0.25])
    out = pixels(dni(clip, bundles[1], alpha={"half": 1.0}, engine="onnxruntime").get_frame(0))
    assert np.abs(out[:, 0, 0] - [0.061728, 0.75, -0.125]).max() <= 1e-6


@needs_vapoursynth
def test_a_timeline_is_evaluated_by_frame_number(bundles: Any) -> None:
    from dni_deploy.vapoursynth import dni

    out = dni(blank(), bundles[1], alpha="0:same=1, 0.2s:same=0", engine="onnxruntime")
    for n in (4, 0, 5, 4):  # in any order
        assert out.get_frame(n).props["dni_alpha"] == pytest.approx([1 - n / 5, n / 5], abs=1e-12)


@needs_vapoursynth
def test_no_frame_with_a_stale_alpha_is_shown(bundles: Any) -> None:
    """VapourSynth caches frames, so a frame requested again would otherwise have its former alpha."""
    from dni_deploy.alpha.coefficients import Coefficients
    from dni_deploy.control.shared_alpha import SharedAlpha
    from dni_deploy.vapoursynth import dni
    from tests.support.pipe_bundle import MEMBERS

    shared_alpha = SharedAlpha(MEMBERS, Coefficients.one_hot("same", MEMBERS))
    clip = blank()
    out = dni(clip, bundles[1], alpha=shared_alpha, engine="onnxruntime")
    before = pixels(out.get_frame(3))
    shared_alpha.set_alpha({"half": 1.0})
    frame = out.get_frame(3)
    assert frame.props["dni_alpha"] == [0.0, 1.0]
    assert frame.props["dni_generation"] == 2
    assert np.array_equal(before, pixels(clip.get_frame(3)))
    assert np.array_equal(pixels(frame), np.rint(before * 0.5))


@needs_vapoursynth
def test_osc_changes_alpha_during_playback(bundles: Any) -> None:
    udp = pytest.importorskip("pythonosc.udp_client", reason="OSC needs python-osc (extra `live`)")
    import socket
    import time

    from dni_deploy.vapoursynth import dni

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out = dni(blank(), bundles[1], alpha="same=1", osc=port, engine="onnxruntime")
    assert out.get_frame(1).props["dni_alpha"] == [1.0, 0.0]
    client = udp.SimpleUDPClient("127.0.0.1", port)
    end = time.monotonic() + 10
    while out.get_frame(1).props["dni_alpha"][0] != 0.25 and time.monotonic() < end:
        client.send_message("/dni/alpha", 0.25)
        time.sleep(0.01)
    assert out.get_frame(1).props["dni_alpha"] == [0.25, 0.75]
    del out
    gc.collect()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rebound:
        rebound.bind(("127.0.0.1", port))  # the port is free: the listener closed with the clip


@needs_vapoursynth
def test_the_session_closes_with_the_clip(bundles: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import dni_deploy.vapoursynth as door

    closed: list[str] = []

    def opening(*args: Any, **options: Any) -> Any:
        from dni_deploy.session.session import open_session

        session = open_session(*args, **options)
        close = session.engine.close
        monkeypatch.setattr(type(session), "close", lambda _: (closed.append("session"), close()))
        return session

    monkeypatch.setattr(door, "open_session", opening)
    out = door.dni(blank(), bundles[1], engine="onnxruntime")
    frame = out.get_frame(0)
    gc.collect()
    assert not closed
    del out
    gc.collect()
    assert closed == ["session"]
    assert pixels(frame).shape == (3, 5, 7)  # a frame that is still referenced stays valid


@needs_vapoursynth
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("YUV420P8", r'YUV420P8, and dni takes RGB; .*format=vs.RGBS, matrix_in_s="170m"'),
        ("GRAY8", r"Gray8, and the network takes three channels; .*core\.resize\.Bicubic\(clip, format=vs\.RGBS\)\.$"),
        ("GRAYS", "GrayS, "),
    ],
)
def test_unsupported_formats_are_refused(name: str, message: str, bundles: Any) -> None:
    import vapoursynth as vs

    from dni_deploy.errors import UsageError
    from dni_deploy.vapoursynth import dni

    with pytest.raises(UsageError, match=message):
        dni(vs.core.std.BlankClip(format=getattr(vs, name), width=16, height=16), bundles[1])


@needs_vapoursynth
@pytest.mark.parametrize(
    ("matrix", "height", "name"),
    [(1, 480, "709"), (5, 1080, "470bg"), (9, 480, "2020ncl"), (None, 480, "170m"), (None, 720, "709"), (2, 720, "709")],
)
def test_the_hint_names_the_matrix_of_the_clip(matrix: int | None, height: int, name: str, bundles: Any) -> None:
    import vapoursynth as vs

    from dni_deploy.errors import UsageError
    from dni_deploy.vapoursynth import dni

    clip = vs.core.std.BlankClip(format=vs.YUV420P8, width=16, height=height, length=1)
    clip = clip if matrix is None else clip.std.SetFrameProps(_Matrix=matrix)
    with pytest.raises(UsageError, match=f'matrix_in_s="{name}"') as caught:
        dni(clip, bundles[1])
    call = str(caught.value).partition("core.")[2].rstrip(".")
    converted = eval(f"vs.core.{call}", {"vs": vs, "clip": clip})  # what it says can be done
    assert dni(converted, bundles[1], engine="onnxruntime").get_frame(0).format.name == "RGBS"


@needs_vapoursynth
@pytest.mark.parametrize("name", ["GRAYS", "GRAYH", "GRAY8", "GRAY10", "GRAY16"])
def test_gray_clips_go_through_networks_of_one_channel(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from dni_deploy.vapoursynth import dni
    from tests.support import pipe_bundle

    bundle = pipe_bundle.write(tmp_path / "gray.dni", 2, channels=1)
    clip = blank(name)
    frame = dni(clip, bundle, alpha={"same": 0.5, "half": 0.5}, engine="onnxruntime").get_frame(3)
    assert frame.format.id == clip.format.id
    expected = pixels(clip.get_frame(3)).astype(np.float64).repeat(2, 1).repeat(2, 2) * 0.75
    tolerance = {"GRAYS": 1e-6, "GRAYH": 2.0**-12}.get(name, 0.5 + 1e-2)
    assert np.abs(pixels(frame).astype(np.float64) - expected).max() <= tolerance


@needs_vapoursynth
def test_invalid_arguments_are_refused(bundles: Any) -> None:
    import vapoursynth as vs

    from dni_deploy.errors import DniError, LimitError, UsageError
    from dni_deploy.vapoursynth import dni

    other = vs.core.std.BlankClip(format=vs.RGB24, width=16, height=16)
    varying = vs.core.std.Splice([blank(), other], mismatch=True)
    for clip, options, kind in (
        ("in.mkv", {}, UsageError),
        (varying, {}, UsageError),
        (vs.core.std.BlankClip(format=vs.RGB24, width=16384, height=16384, length=1), {}, LimitError),
        (blank(), {"alpha": "nobody=1"}, UsageError),
        (blank(), {"alpha": "0:same=1, 2s:same=0", "osc": 0}, UsageError),
        (blank(), {"engine": "nothing"}, DniError),
    ):
        with pytest.raises(kind):
            dni(clip, bundles[1], **options)


@needs_vapoursynth
def test_a_network_error_reaches_the_script(bundles: Any) -> None:
    import vapoursynth as vs

    from dni_deploy.vapoursynth import dni

    def broken(n: int, f: Any) -> Any:
        out = f.copy()
        np.asarray(out[1])[2, 3] = np.nan
        return out

    clip = vs.core.std.ModifyFrame(blank("RGBS"), blank("RGBS"), broken)
    with pytest.raises(vs.Error, match="NaN or infinite"):
        dni(clip, bundles[1], engine="onnxruntime").get_frame(0)


@needs_vapoursynth
def test_vspipe_renders_a_script(bundles: Any, tmp_path: Path) -> None:
    """A script as a user writes it, through VapourSynth's own program, to y4m."""
    vspipe = Path(sys.executable).with_name("vspipe")
    if not vspipe.exists():
        pytest.skip("vspipe is not beside this interpreter")
    script = tmp_path / "show.vpy"
    script.write_text(
        f"import sys; sys.path.insert(0, {os.fspath(ROOT)!r})\n"
        "import vapoursynth as vs\n"
        "from dni_deploy.vapoursynth import dni\n"
        "clip = vs.core.std.BlankClip(format=vs.RGBS, width=16, height=12, length=9, fpsnum=25, color=[0.8, 0.4, 0.2])\n"
        f"clip = dni(clip, {os.fspath(bundles[2].path)!r}, alpha='0f:same=1, 8f:half=1', engine='onnxruntime')\n"
        "vs.core.resize.Bicubic(clip, format=vs.YUV420P8, matrix_s='709').set_output()\n"
    )
    done = subprocess.run([vspipe, "-c", "y4m", script, "-"], cwd=ROOT, capture_output=True, timeout=120)
    if b"vapoursynth config" in done.stderr:
        pytest.skip("vspipe does not know its Python; `vapoursynth config` tells it")
    assert done.returncode == 0, done.stderr
    assert b" W32 H24 " in done.stdout.partition(b"\n")[0]
    assert done.stdout.count(b"FRAME\n") == 9
