"""check: whether the members of a family blend."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.resources import as_file, files
from itertools import combinations
from typing import Any, Union

import numpy as np

from dni_deploy.blending.batchnorm_stats import Recalibration
from dni_deploy.blending.batchnorm_stats_file import read_recalibration
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.checkpoints.family import Family, differences, misfit, read_members
from dni_deploy.compatibility.agreement import Drift, LayerIndex, drifts, filter_layers, layer_indices
from dni_deploy.compatibility.distance import distances, shortest_way
from dni_deploy.compatibility.page import check_page
from dni_deploy.compatibility.permutation import can_match, matched
from dni_deploy.compatibility.probes import SIDE, drawn, probes
from dni_deploy.compatibility.report import CheckReport, Misfit, PairReport
from dni_deploy.compatibility.runner import open_runner
from dni_deploy.compatibility.trial import Trial, pair_name, try_pairs
from dni_deploy.compatibility.verdict import ORDER, Evidence, judge
from dni_deploy.compatibility.whiteness import whiteness
from dni_deploy.errors import EngineError, EnvironmentProblem, MismatchError, UsageError, shown
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.image_file import read_picture
from dni_deploy.imaging.picture_files import Paths, pictures_of
from dni_deploy.signature import Signature
from dni_deploy.utils.atomic_write import publish_bytes
from dni_deploy.utils.optional_packages import open_door
from dni_deploy.utils.outputs import check_outputs
from dni_deploy.utils.progress import MaybeProgress

Source = Union[str, "os.PathLike[str]", Bundle, Family, Mapping[str, Any]]

SUFFIXES = (".html", ".png", ".svg", ".pdf")
ALL_PAIRS = 4
"""Up to this many members every pair is judged; beyond, each with the first."""
ONE = "Blend checkpoints of one architecture in one size: same names, same shapes."
SHOWN = 3
"""Differences that are listed of a member of another network."""
UNDECIDED = "No permutation of channels was looked for: that needs scipy, pip install 'dni-deploy[tune]'."


def check(
    source: Source,
    *,
    image: Paths | None = None,
    reference: Paths | None = None,
    report: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: MaybeProgress = None,
) -> CheckReport:
    """Compare the members' filters (Eq. 3) and what the network gives halfway between them.

    source     a bundle, or checkpoints by name: {"psnr": "psnr.pth", "gan": "gan.pth"}.
    image      pictures for the probe instead of the drawn one and a photograph: files, or folders of them; the middle of each is taken.
    reference  what the network should make of them, in the same order: gives the loss barrier.
    report     .html: a page with pictures, figures and tables; .png, .svg or .pdf: a plot of the layers.
    A poor verdict is a result, no error, and so are members of different networks. Raises UsageError (fewer than two members, a
    report that exists), MismatchError (references of another size or number), and what reading checkpoints and pictures raises.
    """
    suffix = _suffix(report, force)
    if reference is not None and image is None:
        raise UsageError("References are for pictures: give --image as well.")
    pictures = None if image is None else _pictures(image)
    cleans = None if reference is None else [rgb for _, rgb in _pictures(reference)]
    family, bundle, misfits, sentences = _family(source)
    found, trial = (None, Trial()) if family is None else _checked(family, bundle, pictures, cleans, progress)
    made = _with_misfits(found, misfits, sentences)
    if suffix is None or report is None:
        return made
    _write(made, trial, report, suffix, force)
    return replace(made, report=os.fspath(report))


def _checked(
    family: Family,
    bundle: Bundle | None,
    pictures: list[tuple[str, Frame]] | None,
    references: list[Frame] | None,
    progress: MaybeProgress,
) -> tuple[CheckReport, Trial]:
    layers = filter_layers(family.members[0].checkpoint.tensors, _transposed(bundle))
    pairs = _pairs(family)
    known = None if bundle is None else read_recalibration(bundle, [member.checkpoint.tensors for member in family.members])
    trial, architecture, note = _tried(family, bundle, known, pairs, pictures, references, progress)
    rows: list[LayerIndex] = []
    moved: list[Drift] = []
    told: list[PairReport] = []
    table = distances([member.checkpoint.tensors for member in family.members])
    for first, second in pairs:
        name, one, other = pair_name(first, second), family[first].checkpoint.tensors, family[second].checkpoint.tensors
        found, indices = layer_indices(name, one, other, layers)
        found = _rematched(found, one, other, layers)
        evidence = Evidence(
            rows=found,
            median=float(np.median(indices)) if indices else None,
            distance=float(table[family.names.index(first), family.names.index(second)]),
            whiteness=whiteness(one, other, layers),
            middles=[row for row in trial.middles if row.pair == name],
            barriers=[row for row in trial.barriers if row.pair == name],
            norms=[row for row in trial.norms if row.pair == name],
            recalibrated=known is not None,
        )
        verdict = judge(name, evidence)
        rows, moved = rows + found, moved + drifts(name, one, other)
        told.append(
            PairReport(
                name, verdict.verdict, verdict.causes, evidence.median, evidence.distance, evidence.whiteness,
                verdict.reasons, verdict.advice,
            )
        )  # fmt: skip
    notes = [*family.notes, *([note] if note else []), *([UNDECIDED] if _low(rows) and not can_match() else [])]
    if known is not None:
        notes.append(f"This bundle's BatchNorm statistics are re-estimated for its blends, at {len(known.knots)} alphas.")
    order = tuple(family.names[place] for place in shortest_way(table))
    advice = [sentence for row in told for sentence in row.advice]
    if len(order) > 2:
        advice.append(f"The nearest neighbours stand side by side in the order {', '.join(order)}: sweep and slide along it.")
    made = CheckReport(
        verdict=ORDER[max(ORDER.index(row.verdict) for row in told)],
        members=family.names,
        architecture=architecture,
        median=min((row.median for row in told if row.median is not None), default=None),
        reasons=tuple(sentence for row in told for sentence in row.reasons),
        advice=tuple(dict.fromkeys(advice)),
        notes=tuple(notes),
        pairs=tuple(told),
        compared=family.names,
        distances=tuple(tuple(float(value) for value in row) for row in table),
        order=order,
        layers=tuple(rows),
        drifts=tuple(moved),
        midpoints=tuple(trial.middles),
        barriers=tuple(trial.barriers),
        norms=tuple(trial.norms),
        recalibration=None if known is None else known.told(),
    )
    return made, trial


def _low(rows: Sequence[LayerIndex]) -> bool:
    return any(row.low for row in rows)


def _rematched(rows: list[LayerIndex], first: Any, second: Any, layers: Mapping[str, int]) -> list[LayerIndex]:
    """The rows with what a reordering of channels would give, where there is a layer that asks for it."""
    if not _low(rows) or not can_match():
        return rows
    found = matched(first, second, layers)
    return [
        replace(row, matched=float(np.median(np.abs(found[row.layer].index))), chance=found[row.layer].chance)
        if row.layer in found
        else row
        for row in rows
    ]


def _tried(
    family: Family,
    bundle: Bundle | None,
    known: Recalibration | None,
    pairs: list[tuple[str, str]],
    pictures: list[tuple[str, Frame]] | None,
    references: list[Frame] | None,
    progress: MaybeProgress,
) -> tuple[Trial, str | None, str | None]:
    """What came out of the networks, the architecture's name, and why nothing ran."""
    with ExitStack() as stack:
        try:
            runner = stack.enter_context(open_runner(family, bundle, known))
        except EnvironmentProblem as problem:
            return Trial(), bundle.architecture if bundle else None, f"No midpoint was computed: {problem}"
        except MismatchError as problem:
            if bundle is not None:
                raise
            return Trial(), None, f"No midpoint was computed, because the architecture is not known: {problem}"
        found = probes(runner.signature, pictures or _own(runner.signature), references)
        try:
            return try_pairs(runner, family, pairs, found, progress), runner.architecture, None
        except EngineError as problem:
            return Trial(), runner.architecture, f"No midpoint was computed: {problem}"


def _own(signature: Signature) -> list[tuple[str, Frame]]:
    """The drawn picture and the photograph that ships with the package."""
    with as_file(files("dni_deploy") / "data" / "astronaut.png") as path:
        return [("drawn", drawn(SIDE * min(signature.scale, 2))), ("astronaut", read_picture(path).rgb)]


def _pictures(given: Paths) -> list[tuple[str, Frame]]:
    """Files, and the pictures of folders by name."""
    return [(path.name, read_picture(path).rgb) for path in pictures_of(given)]


def _family(source: Source) -> tuple[Family | None, Bundle | None, tuple[Misfit, ...], tuple[str, ...]]:
    """The members that fit the first one (None where it is alone), and those that do not, with a sentence for each."""
    if isinstance(source, Family):
        return source, None, (), ()
    if not isinstance(source, Mapping):
        bundle = Bundle.of(source)
        members = {name: Checkpoint.of(bundle.tensors(name), f"{bundle.path} ({name})") for name in bundle.members}
        return Family.of(members), bundle, (), ()
    first, *others = read_members(source)
    fitting, misfits, sentences = {first.name: first.checkpoint}, [], []
    for member in others:
        unlike = differences(first.checkpoint, member.checkpoint)
        if unlike:
            misfits.append(Misfit(first.name, member.name, len(unlike), tuple(unlike[:SHOWN])))
            sentences.append(misfit(first, member, unlike))
        else:
            fitting[member.name] = member.checkpoint
    return (Family.of(fitting) if len(fitting) > 1 else None), None, tuple(misfits), tuple(sentences)


def _with_misfits(made: CheckReport | None, misfits: tuple[Misfit, ...], sentences: tuple[str, ...]) -> CheckReport:
    """The report, and that some members are of another network: those never blend."""
    if not misfits:
        assert made is not None  # without misfits there are two members at least
        return made
    names = (misfits[0].first, *(row.member for row in misfits))
    base = made or CheckReport("will not blend", names[:1], None, None, (), (), ())
    pairs = tuple(
        PairReport(
            pair_name(row.first, row.member), "will not blend", ("other network",), None, None, None, (sentence,), (ONE,)
        )
        for row, sentence in zip(misfits, sentences, strict=True)
    )
    return replace(
        base,
        verdict="will not blend",
        members=(*base.members, *names[1:]),
        reasons=(*sentences, *base.reasons),
        advice=(ONE, *base.advice),
        pairs=(*base.pairs, *pairs),
        misfits=misfits,
    )


def _transposed(bundle: Bundle | None) -> set[str] | None:
    if bundle is None:
        return None
    return {node.input[1] for node in bundle.graph().graph.node if node.op_type == "ConvTranspose"}


def _pairs(family: Family) -> list[tuple[str, str]]:
    if len(family.names) <= ALL_PAIRS:
        return list(combinations(family.names, 2))
    return [(family.names[0], name) for name in family.names[1:]]


def _suffix(report: str | os.PathLike[str] | None, force: bool) -> str | None:
    """The kind of report, known to be writable as far as can be seen before the work is done."""
    if report is None:
        return None
    suffix = os.path.splitext(os.fspath(report))[1].lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"A report is written as {', '.join(SUFFIXES)}; got {shown(report)}. Nothing was written.")
    check_outputs((report,), force)
    if suffix != ".html":
        open_door("matplotlib")
    return suffix


def _write(made: CheckReport, trial: Trial, report: str | os.PathLike[str], suffix: str, force: bool) -> None:
    if suffix == ".html":
        data = check_page(made, trial.strips).encode("utf-8")
    else:
        title = f"{', '.join(made.members)}: {made.verdict}"
        data = open_door("dni_deploy.compatibility.plot").plot_layers(made.layers, title, suffix[1:])
    publish_bytes(report, data, force=force)
