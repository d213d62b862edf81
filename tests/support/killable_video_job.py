"""A film job in a process of its own, to be killed: python -m tests.support.killable_video_job IN OUT SECONDS_PER_FRAME."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.api import video as verb
from dni_deploy.video_io.encoder import EncoderOptions
from tests.support.frame_session import Dimmer, opener
from tests.support.video_command import MEMBERS, named_bundle

ENCODER = EncoderOptions(crf=12, preset="ultrafast", segment_frames=5)
ALPHA = "0:a=1, 0.8s:a=0.4; smooth"


class Slow(Dimmer):
    """Takes its time for every frame."""

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


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
