"""Times the video pipeline against plain decoding and encoding, and an alpha that changes on every frame against a constant one.

    python -m benchmarks.features.film                     into benchmarks/results/film.json
    python -m benchmarks.features.film --rounds 3 -o -     printed only

Opening the engine is not counted. Every round runs each mode of a comparison once, in rotating order. The result is the median of
the per-round ratios.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import Future
from pathlib import Path

import av
import click

from benchmarks.compare import compare_times, make_timer
from benchmarks.result_file import describe_run, write_result
from benchmarks.samples import ROOT, write_compact_bundle, write_identity_bundle, write_video
from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.api.video import video
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.imaging.frames import AnyFrame
from dni_deploy.imaging.rendered import RenderedFrame
from dni_deploy.utils.atomic_write import write_file_atomically
from dni_deploy.video_io.encoder import EncoderOptions, OutputFormat
from dni_deploy.video_io.mux import mux_segments, plan_output
from dni_deploy.video_io.pipeline import make_completed_future
from dni_deploy.video_io.resume import open_job
from dni_deploy.video_io.transcode import TranscodeSettings, transcode_segments
from dni_deploy.video_io.video_file import open_video_file

RESULT_PATH = ROOT / "benchmarks" / "results" / "film.json"
ENCODER_OPTIONS = EncoderOptions()
CHANGING_ALPHA = "sine(period=1.7s, from=m0, to=m1)"
STEADY_ALPHA = "m0=0.5, m1=0.5"


def transcode(source: Path, output: Path) -> None:
    """Decodes and encodes with the settings of `dni-deploy video`, without processing the frames."""
    with av.open(str(source)) as read, av.open(str(output), "w") as write:
        input_stream = read.streams.video[0]
        input_stream.thread_type = "AUTO"
        output_stream = write.add_stream("libx264", rate=input_stream.average_rate, options=ENCODER_OPTIONS.given_options)
        output_stream.width, output_stream.height, output_stream.pix_fmt = input_stream.width, input_stream.height, "yuv420p"
        output_stream.codec_context.time_base = input_stream.time_base
        for frame in read.decode(input_stream):
            frame.pict_type = av.video.frame.PictureType.NONE  # the encoder chooses its own
            write.mux(output_stream.encode(frame))
        write.mux(output_stream.encode(None))


def run_identity_pipeline(source: Path, output: Path) -> None:
    """Runs the whole video pipeline with an effect that does nothing."""
    stamp = Coefficients(("a",), (1.0,))

    def process_frame(frame: AnyFrame, seconds: float, number: int) -> Future[RenderedFrame]:
        return make_completed_future(RenderedFrame(frame, 1, stamp))

    video_file = open_video_file(source)
    target = OutputFormat.from_video_file(video_file, 1)
    plan = plan_output(output, video_file, ENCODER_OPTIONS, target)
    settings = TranscodeSettings(ENCODER_OPTIONS, target, plan.has_global_header)
    with open_job(output, {}, segment_frames=ENCODER_OPTIONS.segment_frames, fresh=True) as job:
        transcode_segments(video_file, job, process_frame, settings, 1)
        with write_file_atomically(output, force=True) as temporary:
            mux_segments(temporary, plan, job.segments, video_file, ENCODER_OPTIONS, target)
        job.remove()


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option("--frames", type=click.IntRange(10), default=240, show_default=True, help="Of each film.")
@click.option("-o", "--output", type=click.Path(path_type=Path, allow_dash=True), default=RESULT_PATH)
def main(rounds: int, frames: int, output: Path) -> None:
    """Times the video pipeline."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        large, small, out = folder / "large.mp4", folder / "small.mp4", folder / "out.mp4"
        write_video(large, 1280, 720, 30, frames)
        write_video(small, 320, 180, 30, frames // 2)
        write_identity_bundle(folder / "identity.dni")
        write_compact_bundle(folder / "compact.dni", 24, 8, 2)
        same, net = Bundle.open(folder / "identity.dni"), Bundle.open(folder / "compact.dni")
        result = {
            **describe_run(ROOT),
            "pyav": av.__version__,
            "720p": {"frames": frames}
            | compare_times(
                {
                    "decode and encode": make_timer(lambda: transcode(large, out)),
                    "an effect that does nothing": make_timer(lambda: run_identity_pipeline(large, out)),
                    "a network that does nothing": lambda: video(same, large, out, "same=1, dark=0", force=True).seconds,
                },
                rounds,
                over="decode and encode",
            ),
            "Compact 24x8, x2, 320x180": {"frames": frames // 2}
            | compare_times(
                {
                    "steady": lambda: video(net, small, out, STEADY_ALPHA, force=True).seconds,
                    "a change before every frame": lambda: video(net, small, out, CHANGING_ALPHA, force=True).seconds,
                },
                rounds,
                over="steady",
            ),
        }
    write_result(output, result)


if __name__ == "__main__":
    main()
