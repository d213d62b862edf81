"""PixelBlend: what the paper compares with: the members' own outputs, mixed pixel by pixel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import DniError
from dni_deploy.imaging.frames import Frame
from dni_deploy.session.session import Session


class PixelBlend:
    """One session for each member, opened in a thread of its own at the first wish; it owns and closes them.

    `problem` is the sentence of a member that could not be opened; the picture beside it goes on. `on_ready` is called in that
    thread when it has ended.
    """

    def __init__(self, members: Sequence[str], open_member: Callable[[str], Session]) -> None:
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
        """Whether `blend_outputs` may be called; asking for the first time starts the opening."""
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

    def blend_outputs(self, frame: Frame, frame_key: Hashable, coefficients: Sequence[float]) -> Frame:
        """The members' outputs of this frame times their shares, rounded once; `frame_key` tells one frame from another.

        The outputs are kept until the key changes, so that a still costs the members' networks once.
        """
        if self._outputs is None or frame_key != self._frame_key:
            self._outputs = np.stack([session(frame) for session in self._sessions]).astype(np.float32)
            self._frame_key = frame_key
        mixed = np.tensordot(np.asarray(coefficients, np.float32), self._outputs, 1)
        return np.asarray(np.clip(np.rint(mixed), 0, 255).astype(np.uint8))

    def close(self) -> None:
        """No `blend_outputs` may be running."""
        self._closing = True
        if self._thread is not None:
            self._thread.join(10.0)
        for session in self._sessions:
            session.close()
        self._sessions = []
