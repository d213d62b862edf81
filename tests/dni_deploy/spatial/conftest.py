"""Fixtures of the video tests: `video` with a minimal engine."""

from __future__ import annotations

from tests.support.video_command import engine, make

__all__ = ["engine", "make"]
