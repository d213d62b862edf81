"""A video job in its own process, to be killed."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.api import video as verb
from dni_deploy.errors import DniError
from dni_deploy.video_io.encoder import EncoderOptions
from tests.support.frame_session import Dimmer, opener
from tests.support.video_command import MEMBERS, named_bundle

ENCODER = EncoderOptions(crf=12, preset="ultrafast", segment_frames=5)
ALPHA = "0:a=1, 0.8s:a=0.4; smooth"


class Slow(Dimmer):
    """Waits at every frame."""

    pause = 0.0

    def infer(self, slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        time.sleep(self.pause)
        return super().infer(slot, x)


def run(source: Path, output: Path, pause: float, **options: Any) -> verb.VideoReport:
    engine = Slow((1.0, 0.0))
    engine.pause = pause
    verb.open_session = opener(engine, MEMBERS)
    log = output.with_suffix(".jsonl")
    return verb.video(named_bundle(), source, output, ALPHA, encoder=ENCODER, alpha_log=log, **options)


def run_child(source: Path, output: Path, pause: float, error_path: Path) -> None:
    """Runs the job in its own process; the message of a DniError goes into a file.

    Args:
        source: The video.
        output: The path of the result.
        pause: Seconds per frame in the network.
        error_path: Gets the message of an error.
    """
    try:
        run(source, output, pause)
    except DniError as error:
        error_path.write_text(str(error))
        sys.exit(1)
