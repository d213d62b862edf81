"""Checks whether the members of a family blend."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from itertools import combinations, pairwise
from typing import Any, Union

import numpy as np

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.checkpoints.family import Family, describe_mismatch, find_differences, read_members
from dni_deploy.checkpoints.graph_family import GraphFamily, read_graph_family, read_graph_files
from dni_deploy.checkpoints.graph_file import GraphFile, are_graph_files
from dni_deploy.checkpoints.selection import Recognizer
from dni_deploy.compatibility.correlation import (
    BatchNormDifference,
    LayerCorrelation,
    find_filter_layers,
    measure_batchnorm_differences,
    measure_layer_correlations,
)
from dni_deploy.compatibility.distance import measure_pairwise_distances, measure_whiteness, order_by_shortest_path
from dni_deploy.compatibility.page import render_check_page
from dni_deploy.compatibility.permutation import align_permutations, can_align
from dni_deploy.compatibility.probes import make_sample_inputs
from dni_deploy.compatibility.report import ArchitectureMismatch, CheckReport, PairReport, PathReport
from dni_deploy.compatibility.runner import open_runner
from dni_deploy.compatibility.trial import PairMeasurements, format_pair_name, measure_pairs
from dni_deploy.compatibility.verdict import VERDICTS, PairEvidence, judge_pair
from dni_deploy.errors import InputError, LimitError, MismatchError, UnavailableError, UsageError, escape_name
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.image_file import read_frame
from dni_deploy.imaging.image_paths import Paths, list_images
from dni_deploy.utils.atomic_write import check_outputs, write_bytes_atomically
from dni_deploy.utils.optional_packages import import_optional
from dni_deploy.utils.progress import OptionalProgress
from engines.calibrated_network import read_network

CheckInput = Union[str, "os.PathLike[str]", Bundle, Family, Mapping[str, Any]]

REPORT_SUFFIXES = (".html", ".png", ".svg", ".pdf")
MAX_MEMBERS_FOR_ALL_PAIRS = 4
"""Up to this many members every pair is judged; beyond, the neighbors on the path."""
SAME_ARCHITECTURE_ADVICE = "Blend checkpoints of one architecture in one size: same names, same shapes."
MAX_LISTED_DIFFERENCES = 3
"""Differences that are listed of a member of another network."""
NO_ALIGNMENT_MESSAGE = "No permutation of channels was looked for: that needs scipy, pip install 'dni-deploy[tune]'."


def check(
    source: CheckInput,
    *,
    image: Paths | None = None,
    reference: Paths | None = None,
    arch: str = "auto",
    key: str | None = None,
    report: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: OptionalProgress = None,
) -> CheckReport:
    """Compares the members' filters (Eq. 3) and what the network computes halfway between them.

    A poor verdict is a result, no error, and so are members of different networks.

    Args:
        source: A bundle, or members by name: checkpoints, {"psnr": "psnr.pth", "gan": "gan.pth#generator"}, or files with
            graphs, .onnx or ncnn .param, which need no architecture.
        image: Test images instead of the drawn one and a photograph: files, or folders of them; the center of each is used.
        reference: The expected outputs, in the same order: adds the loss barrier.
        arch: Architecture of the checkpoints, as `export` takes it: "auto", a name, or "package.module:factory".
        key: The entry to read in each checkpoint that names none; None to find the one that holds the network.
        report: A file to write: .html with images, figures and tables; .png, .svg or .pdf with a plot of the layers.
        force: Replace a report that exists.
        progress: Called with the runs of the network done.

    Returns:
        The report.

    Raises:
        UsageError: Fewer than two members, a report that exists, or an architecture that is unknown or not needed.
        MismatchError: References of another size or number, or checkpoints that are not of the architecture `arch`.
        EngineError: The engine fails its verification, so that nothing can be said.
        InputError: A checkpoint or an image cannot be read.

    Source: Eq. 3 of the DNI paper.
    """
    suffix = _check_report_path(report, force)
    if reference is not None and image is None:
        raise UsageError("References are for images: give --image as well.")
    images = None if image is None else _read_images(image)
    references = None if reference is None else [rgb for _, rgb in _read_images(reference)]
    subject = _read_subject(source, arch, key)
    family_report, trial = None, PairMeasurements()
    if subject.family is not None:
        family_report, trial = _check_family(subject.family, subject, images, references, progress)
    result = _add_mismatches(family_report, subject.mismatches, subject.sentences)
    if suffix is None or report is None:
        return result
    _write_report(result, trial, report, suffix, force)
    return replace(result, report=os.fspath(report))


@dataclass(frozen=True)
class _Subject:
    """What is checked.

    Attributes:
        family: The members that fit the first one; None where it is alone.
        network: The bundle or the files that hold the members' graph; None for checkpoints.
        mismatches: Members that do not fit.
        sentences: One for each of those.
        arch: Architecture of checkpoints.
    """

    family: Family | None
    network: Bundle | GraphFamily | None = None
    mismatches: tuple[ArchitectureMismatch, ...] = ()
    sentences: tuple[str, ...] = ()
    arch: str = "auto"

    @property
    def bundle(self) -> Bundle | None:
        """The bundle, where the members are from one."""
        return self.network if isinstance(self.network, Bundle) else None


def _check_family(
    family: Family,
    subject: _Subject,
    images: list[tuple[str, Frame]] | None,
    references: list[Frame] | None,
    progress: OptionalProgress,
) -> tuple[CheckReport, PairMeasurements]:
    bundle = subject.bundle
    layers = find_filter_layers(family.members[0].checkpoint.tensors, _find_transposed_convolutions(subject.network))
    table = measure_pairwise_distances([member.checkpoint.tensors for member in family.members])
    order = tuple(family.names[place] for place in order_by_shortest_path(table))
    pairs = _choose_pairs(family, order)
    calibration = None if bundle is None else read_network(bundle).describe_calibration()
    trial, architecture, run_notes, obstacle = _measure_pairs(family, subject, pairs, images, references, progress)
    rows: list[LayerCorrelation] = []
    moved: list[BatchNormDifference] = []
    pair_reports: list[PairReport] = []
    for first, second in pairs:
        name, one, other = format_pair_name(first, second), family[first].checkpoint.tensors, family[second].checkpoint.tensors
        pair_layers, indices = measure_layer_correlations(name, one, other, layers)
        pair_layers = _add_alignment(pair_layers, one, other, layers)
        evidence = PairEvidence(
            layers=pair_layers,
            median=float(np.median(indices)) if indices else None,
            distance=float(table[family.names.index(first), family.names.index(second)]),
            whiteness=measure_whiteness(one, other, layers),
            midpoints=[row for row in trial.midpoints if row.pair == name],
            barriers=[row for row in trial.barriers if row.pair == name],
            norm_mismatches=[row for row in trial.norm_mismatches if row.pair == name],
            is_calibrated=calibration is not None,
        )
        verdict = judge_pair(name, evidence)
        rows, moved = rows + pair_layers, moved + measure_batchnorm_differences(name, one, other)
        pair_reports.append(
            PairReport(
                name, verdict.verdict, verdict.causes, evidence.median, evidence.distance, evidence.whiteness,
                verdict.reasons, verdict.advice, verdict.loss,
            )
        )  # fmt: skip
    notes = [
        *family.notes,
        *run_notes,
        *([NO_ALIGNMENT_MESSAGE] if _has_low_correlation(rows) and not can_align() else []),
    ]
    if calibration is not None:
        notes.append(f"This bundle's blends are calibrated, at {calibration['calibration_points']} alphas.")
    advice = [sentence for row in pair_reports for sentence in row.advice]
    path = _find_path(order, pair_reports) if len(order) > 2 else None
    if path is not None:
        advice.append(_describe_path(path))
    reasons = [sentence for row in pair_reports for sentence in row.reasons]
    if obstacle is not None:
        obstacle = f"Nothing was run, so whether the members blend is not known. {obstacle}"
        reasons.insert(0, obstacle)
    report = CheckReport(
        verdict=VERDICTS[max(VERDICTS.index(row.verdict) for row in pair_reports)],
        members=family.names,
        architecture=architecture,
        median=min((row.median for row in pair_reports if row.median is not None), default=None),
        reasons=tuple(reasons),
        advice=tuple(dict.fromkeys(advice)),
        notes=tuple(notes),
        pairs=tuple(pair_reports),
        compared=family.names,
        distances=tuple(tuple(float(value) for value in row) for row in table),
        order=order,
        path=path,
        layers=tuple(rows),
        drifts=tuple(moved),
        midpoints=tuple(trial.midpoints),
        barriers=tuple(trial.barriers),
        norms=tuple(trial.norm_mismatches),
        calibration=calibration,
        obstacle=obstacle,
    )
    return report, trial


def _has_low_correlation(rows: Sequence[LayerCorrelation]) -> bool:
    return any(row.has_low_median for row in rows)


def _add_alignment(rows: list[LayerCorrelation], first: Any, second: Any, layers: Mapping[str, int]) -> list[LayerCorrelation]:
    """The rows with what a reordering of channels would give, where there is a layer that asks for it."""
    if not _has_low_correlation(rows) or not can_align():
        return rows
    alignments = align_permutations(first, second, layers)
    return [
        replace(row, aligned_median=alignments[row.layer].median, chance=alignments[row.layer].chance_median)
        if row.layer in alignments
        else row
        for row in rows
    ]


def _measure_pairs(
    family: Family,
    subject: _Subject,
    pairs: list[tuple[str, str]],
    images: list[tuple[str, Frame]] | None,
    references: list[Frame] | None,
    progress: OptionalProgress,
) -> tuple[PairMeasurements, str | None, tuple[str, ...], str | None]:
    """What came out of the networks, the architecture's name, what was changed to run it, and why nothing ran."""
    bundle = subject.bundle
    with ExitStack() as stack:
        try:
            runner = stack.enter_context(open_runner(family, subject.network, arch=subject.arch))
        except UnavailableError as problem:
            return PairMeasurements(), bundle.architecture if bundle else None, (), str(problem)
        except (MismatchError, InputError, LimitError) as problem:
            if bundle is not None or subject.arch != "auto":
                raise
            return PairMeasurements(), None, (), str(problem)
        inputs = make_sample_inputs(runner.signature, images or _read_default_images(), references)
        return measure_pairs(runner, pairs, inputs, progress), runner.architecture, runner.notes, None


def _read_default_images() -> list[tuple[str, Frame]]:
    """The photographs that ship with the package."""
    with as_file(files("dni_deploy") / "data") as folder:
        return [(name, read_frame(folder / f"{name}.png")) for name in ("astronaut", "chelsea")]


def _read_images(paths: Paths) -> list[tuple[str, Frame]]:
    """Files, and the pictures of folders by name."""
    return [(path.name, read_frame(path)) for path in list_images(paths, enter_folders=True)]


def _read_subject(source: CheckInput, arch: str, key: str | None) -> _Subject:
    """Reads the members; those that do not fit the first one are set apart, with a sentence for each."""
    if isinstance(source, Family):
        return _Subject(source, arch=arch)
    has_graph = not isinstance(source, Mapping) or are_graph_files(source)
    if has_graph and (arch != "auto" or key is not None):
        raise UsageError("An architecture and a key are for checkpoints; these members have a graph of their own.")
    if not isinstance(source, Mapping):
        bundle = Bundle.ensure_open(source)
        members = {
            name: Checkpoint.from_state_dict(bundle.read_tensors(name), f"{bundle.path} ({name})") for name in bundle.members
        }
        return _Subject(Family.from_checkpoints(members), bundle)
    if are_graph_files(source):
        return _compare_graph_files(read_graph_files(source))
    first, *others = read_members(source, key=key, recognizers=_make_recognizers(arch))
    fitting, misfits, sentences = {first.name: first.checkpoint}, [], []
    for member in others:
        unlike = find_differences(first.checkpoint, member.checkpoint)
        if unlike:
            misfits.append(ArchitectureMismatch(first.name, member.name, len(unlike), tuple(unlike[:MAX_LISTED_DIFFERENCES])))
            sentences.append(describe_mismatch(first, member, unlike))
        else:
            fitting[member.name] = member.checkpoint
    family = Family.from_checkpoints(fitting) if len(fitting) > 1 else None
    return _Subject(family, None, tuple(misfits), tuple(sentences), arch)


def _compare_graph_files(members: Mapping[str, GraphFile]) -> _Subject:
    """The files whose graph is that of the first one, and those that have another."""
    try:
        whole = read_graph_family(members)
        return _Subject(whole.family, whole)
    except MismatchError:
        first, *others = members
    fitting, misfits, sentences = [first], [], []
    for name in others:
        try:
            read_graph_family({member: members[member] for member in (first, name)})
            fitting.append(name)
        except MismatchError as problem:
            misfits.append(ArchitectureMismatch(first, name, 1, ()))
            sentences.append(str(problem))
    files = read_graph_family({name: members[name] for name in fitting}) if len(fitting) > 1 else None
    return _Subject(files.family if files else None, files, tuple(misfits), tuple(sentences))


def _make_recognizers(arch: str) -> tuple[Recognizer, ...]:
    """What knows networks; nothing without PyTorch, as checkpoints are compared without it."""
    try:
        recognizers: tuple[Recognizer, ...] = import_optional("exporters.architectures.recognize").make_recognizers(arch)
    except UnavailableError:
        return ()
    return recognizers


def _add_mismatches(
    report: CheckReport | None, mismatches: tuple[ArchitectureMismatch, ...], sentences: tuple[str, ...]
) -> CheckReport:
    """The report, and that some members are of another network: those never blend."""
    if not mismatches:
        assert report is not None  # without misfits there are two members at least
        return report
    names = (mismatches[0].first, *(row.member for row in mismatches))
    base = report or CheckReport("will not blend", names[:1], None, None, (), (), ())
    pairs = tuple(
        PairReport(
            format_pair_name(row.first, row.member),
            "will not blend",
            ("other network",),
            None,
            None,
            None,
            (sentence,),
            (SAME_ARCHITECTURE_ADVICE,),
        )
        for row, sentence in zip(mismatches, sentences, strict=True)
    )
    return replace(
        base,
        verdict="will not blend",
        members=(*base.members, *names[1:]),
        reasons=(*sentences, *base.reasons),
        advice=(SAME_ARCHITECTURE_ADVICE, *base.advice),
        pairs=(*base.pairs, *pairs),
        mismatches=mismatches,
    )


def _find_transposed_convolutions(network: Bundle | GraphFamily | None) -> set[str] | None:
    if network is None:
        return None
    graph = network.graph if isinstance(network, GraphFamily) else network.read_graph()
    return {node.input[1] for node in graph.graph.node if node.op_type == "ConvTranspose"}


def _choose_pairs(family: Family, order: tuple[str, ...]) -> list[tuple[str, str]]:
    if len(family.names) <= MAX_MEMBERS_FOR_ALL_PAIRS:
        return list(combinations(family.names, 2))
    return list(pairwise(order))


def _find_path(order: tuple[str, ...], pairs: Sequence[PairReport]) -> PathReport:
    by_name = {row.pair: row for row in pairs}
    links = [by_name.get(format_pair_name(*pair)) or by_name[format_pair_name(*reversed(pair))] for pair in pairwise(order)]

    def weakness(row: PairReport) -> tuple[float, ...]:
        return VERDICTS.index(row.verdict), row.loss.loss if row.loss else 0.0, row.distance or 0.0

    weakest = max(links, key=weakness)
    return PathReport(order, tuple(row.pair for row in links), weakest.pair, weakest.verdict)


def _describe_path(path: PathReport) -> str:
    return (
        f"The nearest neighbors are side by side in the order {', '.join(path.members)}: exported in it, path=0..1 goes along it. "
        f"The weak link is {path.weak_link}: {path.verdict}."
    )


def _check_report_path(report: str | os.PathLike[str] | None, force: bool) -> str | None:
    """The kind of report, known to be writable as far as can be seen before the work is done."""
    if report is None:
        return None
    suffix = os.path.splitext(os.fspath(report))[1].lower()
    if suffix not in REPORT_SUFFIXES:
        raise UsageError(
            f"A report is written as {', '.join(REPORT_SUFFIXES)}; got {escape_name(report)}. Nothing was written."
        )
    check_outputs((report,), force)
    if suffix != ".html":
        import_optional("matplotlib")
    return suffix


def _write_report(
    result: CheckReport, trial: PairMeasurements, report: str | os.PathLike[str], suffix: str, force: bool
) -> None:
    if suffix == ".html":
        data = render_check_page(result, trial.contact_sheets).encode("utf-8")
    else:
        title = f"{', '.join(result.members)}: {result.verdict}"
        data = import_optional("dni_deploy.compatibility.plot").plot_layers(result.layers, title, suffix[1:])
    write_bytes_atomically(report, data, force=force)
