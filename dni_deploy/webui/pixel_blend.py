"""The baseline of the paper: the members' own outputs, blended pixel by pixel instead of by their weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import DniError
from dni_deploy.imaging.frames import Frame
from dni_deploy.session.session import Session

OPENING_TIMEOUT_S = 10.0
"""Seconds that `close` waits for the thread that opens the sessions."""


class PixelBlend:
    """Owns one session for each member, which a thread opens when the first frame is asked for.

    Attributes:
        problem: Why a member could not be opened, or ""; the blend of the weights goes on without it.
        on_ready: Called in that thread when it has ended.

    Thread safety: one thread renders; another may close once that has ended.
    """

    def __init__(self, members: Sequence[str], open_member: Callable[[str], Session]) -> None:
        """Stores how a member is opened.

        Args:
            members: Names of the family's members, in family order.
            open_member: Opens a session of one member alone, which the blend then owns.
        """
        self._members, self._open_member = tuple(members), open_member
        self._sessions: list[Session] = []
        self._thread: threading.Thread | None = None
        self._frame_key: Hashable = None
        self._outputs: NDArray[np.float32] | None = None
        self._closing = False
        self.problem = ""
        self.on_ready: Callable[[], None] = lambda: None

    @property
    def is_ready(self) -> bool:
        """Whether `blend_outputs` may be called; the first use starts to open the sessions."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._open_sessions, name="dni-members", daemon=True)
            self._thread.start()
        return len(self._sessions) == len(self._members)

    def _open_sessions(self) -> None:
        opened: list[Session] = []
        try:
            for member in self._members:
                if self._closing:
                    break
                opened.append(self._open_member(member))
        except DniError as error:
            self.problem = str(error)
        if len(opened) == len(self._members) and not self._closing:
            self._sessions = opened
        else:
            for session in opened:
                session.close()
        self.on_ready()

    def blend_outputs(
        self, frame: Frame, frame_key: Hashable, coefficients: Sequence[float], controls: Mapping[str, float] | None = None
    ) -> Frame:
        """Blends the members' outputs of a frame, rounded once.

        The outputs are kept until the key changes, so that a still image costs the members' networks once.

        Args:
            frame: uint8 (H, W, 3), RGB.
            frame_key: Differs wherever the frame differs.
            coefficients: One per member, in family order.
            controls: Values of what the network takes beside the image.

        Returns:
            uint8 (scale * H, scale * W, 3), an array that the caller owns.
        """
        key = (frame_key, tuple((controls or {}).items()))
        if self._outputs is None or key != self._frame_key:
            self._outputs = np.stack([session(frame, controls=controls) for session in self._sessions]).astype(np.float32)
            self._frame_key = key
        blended = np.tensordot(np.asarray(coefficients, np.float32), self._outputs, 1)
        return np.asarray(np.clip(np.rint(blended), 0, 255).astype(np.uint8))

    def close(self) -> None:
        """Closes the sessions; no `blend_outputs` may be running."""
        self._closing = True
        if self._thread is not None:
            self._thread.join(OPENING_TIMEOUT_S)
        for session in self._sessions:
            session.close()
        self._sessions = []
