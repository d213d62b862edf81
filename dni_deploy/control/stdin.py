"""Alpha from lines of text, of a script or a keyboard: "alpha 0.4", "psnr=0.3,gan=0.7", "plane 0.3 0.7"."""

from __future__ import annotations

import io
import os
import selectors
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import IO, Any

from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.control.listener import AlphaListener
from dni_deploy.control.message_handler import MAX_LINE_LENGTH, ReportMessage
from dni_deploy.control.shared_alpha import SharedAlpha


class StdinAlphaListener(AlphaListener):
    """Reads lines from a stream until it ends. Empty lines and those that begin with # are skipped.

    A stream that has a file descriptor is read past its own buffer, so nobody else may read from it meanwhile.
    """

    source = "lines"

    def __init__(
        self,
        shared_alpha: SharedAlpha,
        stream: IO[Any],
        *,
        plane: ControlPlane | None = None,
        report: ReportMessage | None = None,
    ) -> None:
        """Creates a listener that is not started.

        Args:
            shared_alpha: What is set.
            stream: Text or bytes; it stays open, and the caller owns it.
            plane: What a point means; None refuses points.
            report: As in AlphaMessageHandler.
        """
        super().__init__(shared_alpha, plane=plane, report=report)
        self._stream = stream
        self._wake_writer = self._wake_reader = -1

    def _open_input(self) -> None:
        self._wake_reader, self._wake_writer = os.pipe()

    def _run(self) -> None:
        try:
            for line in self._read_lines():
                text = line.decode("utf-8", "replace").strip()
                if text and not text.startswith("#"):
                    self.handler.handle_safely(partial(self.handler.set_from_line, text))
                if self._stopping.is_set():
                    break
        except (OSError, ValueError) as error:  # it was closed, or is not for reading
            self.handler.count_refusal(f"The stream ended ({error}).")

    def _read_lines(self) -> Iterator[bytes]:
        """Yields whole lines, and what follows the last; of one that is too long, a beginning longer than MAX_LINE_LENGTH."""
        rest, skipping = b"", False
        for chunk in self._read_chunks():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if not skipping:
                    yield line
                skipping = False
            if len(rest) > MAX_LINE_LENGTH:
                if not skipping:
                    yield rest
                rest, skipping = b"", True
        if rest and not skipping:
            yield rest

    def _read_chunks(self) -> Iterator[bytes]:
        descriptor = _get_file_descriptor(self._stream)
        if descriptor is None:
            while chunk := self._stream.read(4096):
                yield chunk.encode() if isinstance(chunk, str) else chunk
            return
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_reader, selectors.EVENT_READ)
            with suppress(OSError, ValueError):  # a regular file is always ready, and cannot be waited for
                selector.register(descriptor, selectors.EVENT_READ)
            while not self._stopping.is_set():
                if len(selector.get_map()) > 1:
                    selector.select()
                if self._stopping.is_set() or not (chunk := os.read(descriptor, 4096)):
                    return
                yield chunk

    def _wake_thread(self) -> None:
        os.write(self._wake_writer, b"x")

    def _close_input(self) -> None:
        os.close(self._wake_writer)
        os.close(self._wake_reader)


def _get_file_descriptor(stream: IO[Any]) -> int | None:
    try:
        return stream.fileno() if os.name != "nt" else None
    except (AttributeError, OSError, io.UnsupportedOperation):
        return None
