"""The fixtures of the video tests: `video` over an engine of three lines."""

from __future__ import annotations

from tests.support.video_command import engine, make

__all__ = ["engine", "make"]
