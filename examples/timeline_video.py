"""Renders a video whose alpha goes from the first member to the second and back, every four seconds.

python examples/timeline_video.py sr.dni in.mp4 out.mp4
"""

import sys

import dni_deploy as dni


def main(bundle: str, source: str, output: str) -> None:
    """Writes the video, with the sound and the timestamps of its source."""
    first, second, *_ = dni.Bundle.open(bundle).members
    timeline = f"0:{first}=1, 2s:{second}=1, 4s:{first}=1; smooth; loop"
    report = dni.video(bundle, source, output, timeline, progress=show)
    print(f"{report.frames} frames to {output}")


def show(done: int, total: int, what: str = "") -> None:
    """Prints progress on one line."""
    print(f"\r{done} of {total or '?'}  {what}", end="", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:4])
