"""Write docs/architectures.md from benchmarks/results/spandrel.json; with --check, only tell whether it is up to date."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from write_page import write_or_check

TARGET = Path(__file__).with_name("architectures.md")
RESULT_PATH = Path(__file__).parents[1] / "benchmarks" / "results" / "spandrel.json"
MAX_ERROR = 1e-4
MAX_SPREAD = 2.0
"""A ratio whose rounds differ by more says nothing: the machine had other work."""
PAGE = """# Network architectures

Known by name are SRCNN, DnCNN, RRDBNet (ESRGAN), SRVGGNetCompact (Real-ESRGAN), CycleGAN's generator, Johnson's
TransformerNet and DCGAN's generator. With `pip install ".[spandrel]"` come those of the table; any other
network of your own is given as `--arch package.module:factory`.

## Through spandrel

{summary}

Error: the largest difference from PyTorch, over the largest output, of two members at three sizes and three alphas, the
blended state dict run by spandrel's own descriptor. Sizes: the smallest side in pixels and the multiple that sides are
padded to; both are respected for frames, tiles and engine profiles, and results are cropped. Time: a frame of about 96 x
96 pixels in ONNX Runtime over PyTorch, one thread each, in turn, the median of 5; below 1 is faster, and "-" stands where
other load made the rounds differ by more than 2. The networks are small, with random weights, so times say little of
large ones. {versions}

| architecture | exports | opset | smallest side, multiple | error | time over PyTorch |
|---|---|---|---|---|---|
{rows}

RestoreFormer takes the nearest code of a table at each place. Where another one is nearly as near, a rounding may pick it, and
the place differs. In float32 and float64, none of 1536 places got another code (six images of 512 x 512, the members of the
table). ATD sorts places by category, many of them equal; PyTorch's order of equal values depends on the processor. The graph
keeps their places, and so does what it is compared with: PyTorch's own order gave another image, by up to 1e-03.

The network's scale and what the descriptor does around it (a noise map, a scaled output, one output of several) are part
of the graph. A network that fixes its batch while it is traced, as window attention does, is exported for one image at a
time, which is what a frame is.

Written by `make docs` from benchmarks/results/spandrel.json, which `python -m benchmarks.features.spandrel_architectures`
makes.

## Other runtimes

Small networks of SRCNN, DnCNN, RRDBNet, Compact, CycleGAN, TransformerNet and DCGAN, each as one exported graph of opset 18
(ir_version 8), opened elsewhere and compared with PyTorch:

| runtime | version | largest error |
|---|---|---|
| ONNX Runtime | 1.17.3 | 9.3e-06 |
| onnxruntime-web, in node, WebAssembly | 1.30.0 | 1.1e-05 |
| ncnn, converted by pnnx, float32 | 1.0.20261020 | 1.7e-05 |

The largest errors are CycleGAN's, whose InstanceNorm divides by the spread of each plane; the others' are below 3e-06.

## Networks of your own

`--arch package.module:factory` names a function without arguments that returns the network, as float32 on the CPU. It or
the network may have a `dni_deploy.signature.Signature` as its attribute `signature`; otherwise channels, scale, multiple
and smallest side are measured by running it, and values of 0..1 are assumed.

* Of several outputs in a list, tuple or dict the one is taken that is an image (1 or 3 channels, a whole multiple of the
  input's size); more than one image is an error. Convolutions without padding cut off a border: the graph then extends
  the image by it first, repeating the border. Both are notes of the bundle.
* Sizes have to stay symbols: `torch.arange(x.shape[2])` follows the image, `torch.linspace(-1, 1, x.shape[2])` is fixed to
  the size of the example. The error names the line.
* A layer that puts several convolutions together in `forward()`, with `update_params` and `eval_conv` as in SPAN, is
  exported in its training form, which is the same function and blends exactly. So is a mixture of experts (`experts`,
  `gate`, `num_expert`, as in SeemoRe): the graph runs all experts, those not chosen with a weight of 0.
* Your network and spandrel's are exported in a process of their own. What ends that process is an error (exit code 3),
  and nothing is written.
"""


def format_page(result: Mapping[str, Any]) -> str:
    """Formats the whole page."""
    rows = result["rows"]
    families = {name.partition(" (")[0] for name in rows}
    equal = {name.partition(" (")[0] for name, row in rows.items() if row["exports"] and row["error"] <= MAX_ERROR}
    summary = (
        f"{len(equal)} of the {len(families)} architectures measured are exported and equal to PyTorch within {MAX_ERROR:.0e}."
    )
    versions = ", ".join(f"{name} {result[name]}" for name in ("spandrel", "torch", "onnx", "onnxruntime"))
    lines = [_format_row(name, row) for name, row in rows.items()]
    return PAGE.format(summary=summary, versions=f"Versions: {versions}.", rows="\n".join(lines))


def _format_row(name: str, row: Mapping[str, Any]) -> str:
    if not row["exports"]:
        return f"| {name} | no: {row['reason'].replace('|', '/')} | | | | |"
    ratio, smallest, largest = row["frame time over PyTorch"]
    time = "-" if largest > MAX_SPREAD * smallest else f"{ratio:.2f}"
    return f"| {name} | yes | {row['opset']} | {row['minimum']}, {row['multiple']} | {row['error']:.1e} | {time} |"


if __name__ == "__main__":
    sys.exit(write_or_check(TARGET, format_page(json.loads(RESULT_PATH.read_text(encoding="utf-8"))), "results"))
