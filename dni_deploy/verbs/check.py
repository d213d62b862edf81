"""check: whether the members of a family blend."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any, Union

import numpy as np
from numpy.typing import NDArray

from dni_deploy.agreement import Drift, LayerIndex, drifts, filter_layers, layer_indices
from dni_deploy.bays import open_door
from dni_deploy.bundle import Bundle
from dni_deploy.checkpoint import Checkpoint
from dni_deploy.errors import EnvironmentProblem, MismatchError, UsageError, shown
from dni_deploy.family import Family
from dni_deploy.midpoint import Midpoint, midpoint, probe_input
from dni_deploy.pictures import read_picture
from dni_deploy.publish import publish_bytes
from dni_deploy.report.check_page import check_page
from dni_deploy.signature import Signature
from dni_deploy.verdict import Verdict, judged

Source = Union[str, "os.PathLike[str]", Bundle, Family, Mapping[str, Any]]
Run = Callable[[Mapping[str, float]], NDArray[np.float32]]

SUFFIXES = (".html", ".png", ".svg", ".pdf")
ALL_PAIRS = 4
"""Up to this many members every pair is compared; beyond, each with the first."""


@dataclass(frozen=True)
class CheckReport:
    """What was found.

    verdict    "blends well": the median index of every layer is at least 0.689 and the midpoint holds; "will not blend": the
               median over all filters is below 0.1, or the midpoint collapses; else "blends with care".
    reasons    why, a sentence each; advice: what to do about it; notes: what was left out or chosen.
    median     of the index over all filters of the worst pair; None where there is no filter.
    layers, drifts, midpoints   the figures behind it, a row for each pair of members and layer.
    report     the file that was written, or None.
    """

    verdict: Verdict
    members: tuple[str, ...]
    architecture: str | None
    median: float | None
    reasons: tuple[str, ...]
    advice: tuple[str, ...]
    notes: tuple[str, ...]
    layers: tuple[LayerIndex, ...]
    drifts: tuple[Drift, ...]
    midpoints: tuple[Midpoint, ...]
    report: str | None = None

    def to_json(self) -> dict[str, Any]:
        fields = asdict(self)
        for row, layer in zip(fields["layers"], self.layers, strict=True):
            row["median"] = layer.median
        return fields


def check(
    source: Source,
    *,
    image: str | os.PathLike[str] | None = None,
    report: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> CheckReport:
    """Compare the members' filters (Eq. 3) and what the network gives halfway between them.

    source  a bundle, or checkpoints by name: {"psnr": "psnr.pth", "gan": "gan.pth"}.
    image   a picture for the midpoint instead of the drawn one; its middle is taken.
    report  a plot of the layers to write: .png, .svg or .pdf, or .html with the tables beside it.
    A poor verdict is a result, no error. Raises MismatchError where the members are not of one architecture, and what reading them raises.
    """
    suffix = _suffix(report, force)
    picture = read_picture(image).rgb if image is not None else None
    family, bundle = _family(source)
    layers = filter_layers(family.members[0].checkpoint.tensors, _transposed(bundle))
    pairs = _pairs(family)
    rows: list[LayerIndex] = []
    moved: list[Drift] = []
    medians: dict[str, float] = {}
    for first, second in pairs:
        name, one, other = _pair(first, second), family[first].checkpoint.tensors, family[second].checkpoint.tensors
        found, indices = layer_indices(name, one, other, layers)
        rows += found
        moved += drifts(name, one, other)
        if indices:
            medians[name] = float(np.median(indices))
    middles, architecture, note = _probe(family, bundle, pairs, picture)
    verdict, reasons, advice = judged(rows, medians, middles)
    notes = (*family.notes, *([note] if note else []))
    overall = min(medians.values(), default=None)
    made = CheckReport(
        verdict, family.names, architecture, overall, reasons, advice, notes, tuple(rows), tuple(moved), tuple(middles)
    )
    if suffix is None or report is None:
        return made
    _write(made, report, suffix, force)
    return replace(made, report=os.fspath(report))


def _suffix(report: str | os.PathLike[str] | None, force: bool) -> str | None:
    """The kind of report, known to be writable as far as can be seen before the work is done."""
    if report is None:
        return None
    suffix = os.path.splitext(os.fspath(report))[1].lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"A report is written as {', '.join(SUFFIXES)}; got {shown(report)}. Nothing was written.")
    if os.path.lexists(report) and not force:
        raise UsageError(f"{shown(report)} exists; give --force to replace it. Nothing was written.")
    open_door("matplotlib")
    return suffix


def _write(made: CheckReport, report: str | os.PathLike[str], suffix: str, force: bool) -> None:
    plot = open_door("dni_deploy.report.check_plot")
    title = f"{', '.join(made.members)}: {made.verdict}"
    if suffix != ".html":
        publish_bytes(report, plot.plot_layers(made.layers, title, suffix[1:]), force=force)
        return
    svg: str = plot.plot_layers(made.layers, title, "svg").decode("utf-8")
    sentences = (*made.reasons, *made.advice, *made.notes)
    page = check_page(made.verdict, made.members, sentences, svg[svg.index("<svg") :], made.layers, made.drifts, made.midpoints)
    publish_bytes(report, page.encode("utf-8"), force=force)


def _family(source: Source) -> tuple[Family, Bundle | None]:
    if isinstance(source, Family):
        return source, None
    if isinstance(source, Mapping):
        return Family.of(source), None
    bundle = source if isinstance(source, Bundle) else Bundle.open(source)
    members = {name: Checkpoint.of(bundle.tensors(name), f"{bundle.path} ({name})") for name in bundle.members}
    return Family.of(members), bundle


def _transposed(bundle: Bundle | None) -> set[str] | None:
    if bundle is None:
        return None
    return {node.input[1] for node in bundle.graph().graph.node if node.op_type == "ConvTranspose"}


def _pairs(family: Family) -> list[tuple[str, str]]:
    if len(family.names) <= ALL_PAIRS:
        return list(combinations(family.names, 2))
    return [(family.names[0], name) for name in family.names[1:]]


def _pair(first: str, second: str) -> str:
    return f"{first} - {second}"


def _probe(
    family: Family, bundle: Bundle | None, pairs: list[tuple[str, str]], picture: NDArray[np.uint8] | None
) -> tuple[list[Midpoint], str | None, str | None]:
    """The midpoint of each pair, the architecture's name, and why there is none."""
    try:
        if bundle is not None:
            with open_door("dni_deploy.session").open_session(bundle) as session:

                def infer(shares: Mapping[str, float], x: NDArray[np.float32]) -> NDArray[np.float32]:
                    session.alpha = dict(shares)
                    output: NDArray[np.float32] = session.infer(x)
                    return output

                return _midpoints(infer, bundle.signature, pairs, picture), bundle.architecture, None
        probe = open_door("exporters.architectures")
        found = probe.find("auto", family.members[0].checkpoint.tensors)
        run, signature = _torch_runner(family, found)
        return _midpoints(run, signature, pairs, picture), found.name, None
    except EnvironmentProblem as problem:
        return [], bundle.architecture if bundle else None, f"No midpoint was computed: {problem}"
    except MismatchError as problem:
        if bundle is not None:
            raise
        return [], None, f"No midpoint was computed, because the architecture is not known: {problem}"


def _torch_runner(family: Family, architecture: Any) -> tuple[Callable[..., NDArray[np.float32]], Signature]:
    torch = open_door("torch")

    def infer(shares: Mapping[str, float], x: NDArray[np.float32]) -> NDArray[np.float32]:
        blended: dict[str, NDArray[Any]] = dict(family.members[0].checkpoint.tensors)
        for key in family.float_keys:
            parts = (share * family[name].checkpoint.tensors[key].astype(np.float64) for name, share in shares.items())
            blended[key] = np.asarray(sum(parts), np.float32)
        with torch.no_grad():
            output: NDArray[np.float32] = architecture.build(blended)(torch.from_numpy(x)).numpy()
        return output

    return infer, architecture.signature(architecture.build(family.members[0].checkpoint.tensors))


def _midpoints(
    infer: Callable[..., NDArray[np.float32]],
    signature: Signature,
    pairs: list[tuple[str, str]],
    picture: NDArray[np.uint8] | None,
) -> list[Midpoint]:
    x = probe_input(signature, picture)

    def output(shares: Mapping[str, float]) -> NDArray[np.float32]:
        y = infer(shares, x)
        return np.asarray(x - y, np.float32) if signature.residual and y.shape == x.shape else y

    ends = {name: output({name: 1.0}) for name in dict.fromkeys(name for pair in pairs for name in pair)}
    span = signature.high - signature.low
    return [
        midpoint(_pair(first, second), ends[first], output({first: 0.5, second: 0.5}), ends[second], span)
        for first, second in pairs
    ]
