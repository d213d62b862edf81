"""A lossy gray video, as alpha-map videos usually are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from tests.support.video_clips import RATE


def grey_film(path: Path, maps: NDArray[np.uint8]) -> Path:
    """Writes a gray video. maps: uint8 (frames, H, W)."""
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("libx264", rate=RATE, options={"crf": "12", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = maps.shape[2], maps.shape[1], "yuv420p"
        for gray in maps:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(gray[..., None].repeat(3, axis=2)), format="rgb24")
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path
