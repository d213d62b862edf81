"""The network as a filter of VapourSynth clips, with alpha over time or live.

import vapoursynth as vs
from dni_deploy.vapoursynth import dni

clip = dni(clip, "sr.dni", alpha="0:gan=0, 2.5s:gan=1")     # RGB; gray for a network of one channel
clip = dni(clip, "sr.dni", alpha=0.5, osc=9123)             # /dni/alpha moves it while it plays
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from fractions import Fraction
from typing import Any

import numpy as np
import vapoursynth as vs
from numpy.typing import NDArray

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.control.frame_alpha import FrameAlpha, StreamAlpha, open_frame_alpha
from dni_deploy.control.open_listeners import ListenerOptions
from dni_deploy.errors import LimitError, UsageError
from dni_deploy.imaging.frames import check_signature
from dni_deploy.imaging.image_limits import max_frame_pixels
from dni_deploy.session.options import SessionOptions
from dni_deploy.session.session import Session, open_session

MATRIX_NAMES = {1: "709", 4: "fcc", 5: "470bg", 6: "170m", 7: "240m", 8: "ycgco", 9: "2020ncl", 10: "2020cl", 14: "ictcp"}
"""The frame property _Matrix (ITU-T H.273) -> VapourSynth's name for it in core.resize."""

MIN_BT709_HEIGHT_PX = 720
"""A clip without _Matrix of this height or more is taken as BT.709, below it as BT.601, as players do."""


def dni(
    clip: Any,
    bundle: Bundle | str | os.PathLike[str],
    alpha: StreamAlpha = None,
    osc: int | str | None = None,
    engine: str = "auto",
    *,
    http: int | str | None = None,
    osc_map: Sequence[str] = (),
    token: str | None = None,
    slew: float | None = None,
    alpha_for: str | Sequence[str] | None = None,
    **options: Any,
) -> Any:
    """Filters a clip. The result is `scale` times as wide and high.

    Each frame has the properties dni_alpha (the coefficients in family order) and dni_generation; its others are kept. The
    session and the ports are closed when nobody holds the clip any more.

    Args:
        clip: A clip of constant size: RGB24 to RGB48, RGBH or RGBS; for a network of one channel also GRAY of the same
            depths. Floats are neither rounded nor clamped by the network's side; RGBH has 11 bits of its own.
        bundle: The bundle or its path.
        alpha: An alpha; a timeline or curve as text, by the clip's frame numbers and its frame rate; a file of keyframes; an
            AlphaSource; None: the first member alone.
        osc: Port on loopback, or "ADDRESS:PORT", that takes alpha while the clip plays; 0: any, which the core's log then names.
            Frames are not cached then, since VapourSynth would show those that it has with the alpha of then.
        engine: As in `open_session`.
        http: As `osc`.
        osc_map: What OSC addresses of other programs stand for, such as "/1/fader1=alpha".
        token: The secret that HTTP requests carry; None: a random one, which the core's log then names.
        slew: Fastest change of a coefficient, in 1/s.
        alpha_for: Rules for groups of weights, such as "norm:*=0.2"; one or several.
        **options: Other fields of SessionOptions, such as precision="fp16" or controls={"sigma": 0.1}.

    Raises:
        UsageError: The clip has another format; the message says how to convert it.
        LimitError: The result would be too large.
        MismatchError: The network does not take frames. What `open_session` raises is raised, too.
    """
    _check_clip(clip)
    rules = [alpha_for] if isinstance(alpha_for, str) else alpha_for or ()
    session_options = SessionOptions(engine=engine, rules=rules, **options)
    opened = Bundle.ensure_open(bundle)
    check_signature(opened.signature)
    if clip.format.color_family == vs.GRAY and opened.signature.input_channels != 1:
        raise UsageError(
            f"The clip is {clip.format.name}, and the network takes three channels; "
            "convert it first: core.resize.Bicubic(clip, format=vs.RGBS)."
        )
    width, height = clip.width * opened.signature.scale, clip.height * opened.signature.scale
    if width * height > max_frame_pixels():
        raise LimitError(f"The clip would have {width}x{height} pixels, more than {max_frame_pixels():,} (DNI_MAX_PIXELS).")
    rate = Fraction(clip.fps) or None  # 0: frames of their own durations
    with ExitStack() as stack:
        control = stack.enter_context(
            open_frame_alpha(
                opened.members,
                alpha,
                rate=rate,
                listeners=ListenerOptions(osc=osc, osc_map=osc_map, http=http, http_token=token, slew=slew),
                extrapolate=session_options.extrapolate,
                controls=opened.signature.controls,
                control_values=session_options.controls,
                note=_log_message,
            )
        )
        session = stack.enter_context(open_session(opened, session_options, alpha=control.at(0)))
        function = _FrameFilter(session, control, clip.format)
        weakref.finalize(function, stack.pop_all().close)
    # One frame of the output's size, which every request gets to copy and fill.
    blank = vs.core.std.BlankClip(clip, width=width, height=height, keep=True)
    filtered = vs.core.std.ModifyFrame(blank, [clip, blank], function)
    if control.is_live:
        vs.core.std.SetVideoCache(filtered, mode=0)
    return filtered


class _FrameFilter:
    """What ModifyFrame calls for each frame; the clip owns it.

    Thread safety: For any thread; frames of several threads overlap.
    """

    def __init__(self, session: Session, frame_alpha: FrameAlpha, clip_format: Any) -> None:
        self.session, self.frame_alpha = session, frame_alpha
        self._planes = range(clip_format.num_planes)
        self._is_integer = clip_format.sample_type == vs.INTEGER
        self._white = (1 << clip_format.bits_per_sample) - 1
        self._lock = threading.Lock()

    def __call__(self, n: int, f: list[Any]) -> Any:
        source, target = f[0], f[1].copy()
        with self._lock:  # an alpha that moves has a time of its own
            coefficients = self.frame_alpha.at(n)
        rendered = self.session.render(self._to_frame(source), alpha=coefficients, controls=self.frame_alpha.read_controls())
        for plane in self._planes:
            self._write_plane(rendered.output[..., plane], np.asarray(target[plane]))
        for name, value in source.props.items():
            target.props[name] = value
        target.props["dni_alpha"] = list(coefficients.values)
        target.props["dni_generation"] = rendered.generation
        return target

    def _to_frame(self, source: Any) -> NDArray[Any]:
        """Returns (H, W, 3): integers of 8 and 16 bits as they are, everything else as float32; gray three times."""
        planes = [np.asarray(source[plane]) for plane in self._planes]
        frame = np.stack(planes * (3 // len(planes)), axis=-1)
        if not self._is_integer:
            return frame.astype(np.float32, copy=False)
        return frame if self._white in (0xFF, 0xFFFF) else frame.astype(np.float32) / np.float32(self._white)

    def _write_plane(self, output: NDArray[Any], target: NDArray[Any]) -> None:
        if self._is_integer and output.dtype == np.float32:
            output = np.clip(np.rint(output * np.float32(self._white)), 0, self._white)
        target[:] = output


def _check_clip(clip: Any) -> None:
    if not isinstance(clip, vs.VideoNode):
        raise UsageError(f"dni takes a video clip; got {type(clip).__name__}.")
    if clip.format is None or not clip.width or not clip.height:
        raise UsageError("The clip changes its format or size; convert it to one with core.resize before dni.")
    if clip.format.color_family not in (vs.RGB, vs.GRAY) or clip.format.bits_per_sample > (
        16 if clip.format.sample_type == vs.INTEGER else 32
    ):
        matrix = f', matrix_in_s="{_find_matrix(clip)}"' if clip.format.color_family == vs.YUV else ""
        raise UsageError(
            f"The clip is {clip.format.name}, and dni takes RGB; "
            f"convert it first: core.resize.Bicubic(clip, format=vs.RGBS{matrix})."
        )


def _find_matrix(clip: Any) -> str:
    """Returns the matrix of a YUV clip as core.resize calls it: that of its first frame, or by the rule of players."""
    try:
        with clip.get_frame(0) as frame:
            number = int(frame.props.get("_Matrix", vs.MATRIX_UNSPECIFIED))
    except vs.Error:
        number = int(vs.MATRIX_UNSPECIFIED)
    return MATRIX_NAMES.get(number) or ("709" if clip.height >= MIN_BT709_HEIGHT_PX else "170m")


def _log_message(sentence: str) -> None:
    vs.core.log_message(vs.MESSAGE_TYPE_INFORMATION, f"dni: {sentence}")
