"""Lines: alpha from a script or a keyboard, one setting a line: "alpha 0.4", "psnr=0.3,gan=0.7", "plane 0.3 0.7"."""

from __future__ import annotations

import io
import os
import selectors
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any

from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.control.listener import Feeder
from dni_deploy.control.message_handler import LINE_LIMIT, Tell
from dni_deploy.control.shared_alpha import AlphaCell


class LinesFeeder(Feeder):
    """Reads a stream to its end, text or bytes; the stream stays the caller's. Empty lines and those that begin with # are passed over.

    A stream that has a file descriptor is read past its own buffer: nobody else reads from it meanwhile.
    """

    source = "lines"

    def __init__(
        self, cell: AlphaCell, stream: IO[Any], *, plane: ControlPlane | None = None, tell: Tell | None = None
    ) -> None:
        super().__init__(cell, plane=plane, tell=tell)
        self._stream = stream
        self._waker = self._wakened = -1

    def _open(self) -> None:
        self._wakened, self._waker = os.pipe()

    def _run(self) -> None:
        try:
            for line in self._lines():
                text = line.decode("utf-8", "replace").strip()
                if text and not text.startswith("#"):
                    self.steering.attempt(lambda text=text: self.steering.line(text))  # type: ignore[misc]
                if self._stopping.is_set():
                    break
        except (OSError, ValueError) as error:  # it was closed, or is not for reading
            self.steering.refuse(f"the stream ended ({error}).")

    def _lines(self) -> Iterator[bytes]:
        """Whole lines, and what stands behind the last one; a line too long comes as its beginning, longer than LINE_LIMIT."""
        rest, skipping = b"", False
        for chunk in self._chunks():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if not skipping:
                    yield line
                skipping = False
            if len(rest) > LINE_LIMIT:
                if not skipping:
                    yield rest
                rest, skipping = b"", True
        if rest and not skipping:
            yield rest

    def _chunks(self) -> Iterator[bytes]:
        descriptor = _descriptor(self._stream)
        if descriptor is None:
            while chunk := self._stream.read(4096):
                yield chunk.encode() if isinstance(chunk, str) else chunk
            return
        with selectors.DefaultSelector() as selector:
            selector.register(self._wakened, selectors.EVENT_READ)
            with suppress(OSError, ValueError):  # a regular file is always ready, and cannot be waited for
                selector.register(descriptor, selectors.EVENT_READ)
            while not self._stopping.is_set():
                if len(selector.get_map()) > 1:
                    selector.select()
                if self._stopping.is_set() or not (chunk := os.read(descriptor, 4096)):
                    return
                yield chunk

    def _wake(self) -> None:
        os.write(self._waker, b"x")

    def _shut(self) -> None:
        os.close(self._waker)
        os.close(self._wakened)


def _descriptor(stream: IO[Any]) -> int | None:
    try:
        return stream.fileno() if os.name != "nt" else None
    except (AttributeError, OSError, io.UnsupportedOperation):
        return None
