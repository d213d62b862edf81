"""Helpers for tests of videos: a fake bundle, and a session over a minimal engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from dni_deploy.api import video as verb
from dni_deploy.video_io.encoder import EncoderOptions
from dni_deploy.video_io.video_file import InputOptions
from tests.support.frame_session import MEMBERS, Dimmer, named_bundle, opener

Make = Callable[..., verb.VideoReport]


@pytest.fixture
def engine() -> Dimmer:
    """Returns an engine whose member a keeps the frame and member b makes it black."""
    return Dimmer((1.0, 0.0))


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, engine: Dimmer) -> Make:
    """`video` over that engine, with segments of 8 frames."""
    monkeypatch.setattr(verb, "open_session", opener(engine, MEMBERS))

    def call(source: Path, output: Path, alpha: Any = 1.0, **options: Any) -> verb.VideoReport:
        chosen = {"segment_frames": 8, "crf": 8, "preset": "ultrafast", **options}
        digest = chosen.pop("digest", "0" * 64)
        encoding = {field.name: chosen.pop(field.name) for field in fields(EncoderOptions) if field.name in chosen}
        chosen["encoder"] = EncoderOptions(**encoding)
        reading = {field.name: chosen.pop(field.name) for field in fields(InputOptions) if field.name in chosen}
        chosen["input_options"] = InputOptions(**reading)
        return verb.video(named_bundle(engine.scale, digest), source, output, alpha, **chosen)

    return call
