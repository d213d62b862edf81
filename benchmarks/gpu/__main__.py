"""Times the GPU backend: the blend kernel, an alpha change and a frame in every mode, against the baselines.

    python -m benchmarks.gpu --prepare FOLDER                       graphs and expected outputs; needs PyTorch, no GPU
    python -m benchmarks.gpu --prepared FOLDER -o part.json         everything that can run here
    python -m benchmarks.gpu rrdb --prepared FOLDER --shape 1280x720 --precision fp16 --rows tensorrt,torch-compile
    python -m benchmarks.gpu --merge a.json b.json -o benchmarks/results/gpu.json

The GPU side needs NumPy, onnx, safetensors and cuda-bindings or pycuda, and TensorRT or PyTorch where the rows use them; nothing
is downloaded.
If the two are in separate installations, each measures its part. benchmarks.gpu.run_all checks and measures everything within a
time budget.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.gpu import result as results
from benchmarks.gpu.clock import EventClock
from benchmarks.gpu.machine import describe_machine
from benchmarks.gpu.measurement import Measurement, report
from benchmarks.gpu.modes import GPU_BACKEND_MODES, select_modes
from benchmarks.result_file import describe_commit
from dni_deploy.errors import DniError, EngineError, UsageError
from engines.interface import PRECISIONS

ROOT = Path(__file__).resolve().parents[2]
NETWORK_NAMES = ("rrdb", "compact", "dncnn", "transformer")
DEFAULT_SHAPES = ("1280x720", "256x256", "1920x1080")
DEFAULT_PRECISIONS = ("fp16", "fp32")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORK_NAMES)}; default all")
    parser.add_argument(
        "--prepare", type=Path, metavar="FOLDER", help="write the networks' graphs and expected outputs, and stop"
    )
    parser.add_argument(
        "--prepared", type=Path, metavar="FOLDER", help="what --prepare wrote; default: made now, which needs PyTorch"
    )
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="keep bundles and plans here for the next run")
    parser.add_argument(
        "--shape", action="append", metavar="WxH", help="of the input, more than once; default 1280x720, 256x256, 1920x1080"
    )
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="more than once; default fp16, fp32")
    parser.add_argument(
        "--rows", metavar="NAME,...", help=f"of {', '.join(mode.name for mode in GPU_BACKEND_MODES)}, kernel; default all"
    )
    parser.add_argument("--seconds", type=float, default=12.0, help="of timing per case (default %(default)s)")
    parser.add_argument(
        "--budget", type=float, default=1e9, metavar="SECONDS", help="for everything; what does not fit is left out"
    )
    parser.add_argument("--build-only", action="store_true", help="build the rows' plans in --work, and stop")
    parser.add_argument("--no-build", action="store_true", help="leave rows out whose plan is not in --work")
    parser.add_argument("--commit", help="what was measured, where there is no git")
    parser.add_argument("-o", "--output", type=Path, help="JSON, written anew after every case")
    parser.add_argument("--merge", type=Path, nargs="+", metavar="JSON", help="put results together into --output, and stop")
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    try:
        return _run(options)
    except DniError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code


def _run(options: argparse.Namespace) -> int:
    networks = tuple(options.networks) or NETWORK_NAMES
    unknown = [name for name in networks if name not in NETWORK_NAMES]
    if unknown:
        raise UsageError(f"There is no network {unknown[0]!r}; there are {', '.join(NETWORK_NAMES)}.")
    if options.merge:
        if options.output is None:
            raise UsageError("--merge needs --output.")
        whole = results.merge_results(results.read(path) for path in options.merge)
        results.write(options.output, whole)
        print(results.format_short_table(whole))
        return 0
    if options.prepare is not None:
        _prepare(options.prepare, networks)
        return 0
    rows = None if options.rows is None else tuple(options.rows.split(","))
    row_names = {mode.name for mode in GPU_BACKEND_MODES} | {"kernel"}
    if rows is not None and not set(rows) <= row_names:
        raise UsageError(f"There is no row {sorted(set(rows) - row_names)[0]!r}; there are {', '.join(sorted(row_names))}.")
    precisions, shapes = options.precision or DEFAULT_PRECISIONS, [_shape(text) for text in options.shape or DEFAULT_SHAPES]
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dni-bench-")))
        prepared = options.prepared or scratch / "prepared"
        if options.prepared is None:
            _prepare(prepared, networks)
        result = results.make_empty_result({}, options.commit or describe_commit(ROOT))
        measurement = Measurement(
            prepared,
            options.work or scratch,
            result,
            options.output,
            time.monotonic() + options.budget,
            build_missing=not options.no_build,
            seconds=options.seconds,
        )
        if options.build_only:
            return 0 if measurement.build(networks, shapes, precisions, select_modes(rows)) else EngineError.exit_code
        clock = stack.enter_context(EventClock())
        result["parts"][0]["machine"] = describe_machine()
        if rows is None or "kernel" in rows:
            measurement.kernel(networks, precisions, clock)
        measurement.cases(networks, shapes, precisions, select_modes(rows), clock)
    print(results.format_short_table(results.merge_results([result])))
    return 0


def _prepare(folder: Path, networks: tuple[str, ...]) -> None:
    from benchmarks.gpu.prepare import prepare

    for name in networks:
        report(f"preparing {name}")
        prepare(folder, name)


def _shape(text: str) -> tuple[int, int]:
    """Parses WxH into (height, width); UsageError if it is malformed."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"--shape {text!r} is not WxH, such as 1280x720.")
    return int(parts[1]), int(parts[0])


if __name__ == "__main__":
    sys.exit(main())
