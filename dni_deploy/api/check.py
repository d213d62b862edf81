"""Checks whether the members of a family blend."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.resources import as_file, files
from itertools import combinations
from typing import Any, Union

import numpy as np

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.checkpoints.family import Family, describe_mismatch, find_differences, read_members
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
from dni_deploy.compatibility.probes import TEST_SIDE_PX, draw_test_image, make_sample_inputs
from dni_deploy.compatibility.report import ArchitectureMismatch, CheckReport, PairReport
from dni_deploy.compatibility.runner import open_runner
from dni_deploy.compatibility.trial import PairMeasurements, format_pair_name, measure_pairs
from dni_deploy.compatibility.verdict import VERDICTS, PairEvidence, judge_pair
from dni_deploy.errors import InputError, LimitError, MismatchError, UnavailableError, UsageError, escape_name
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.image_file import Paths, list_images, read_image
from dni_deploy.signature import Signature
from dni_deploy.utils.atomic_write import check_outputs, write_bytes_atomically
from dni_deploy.utils.optional_packages import import_optional
from dni_deploy.utils.progress import OptionalProgress
from engines.calibrated_network import read_network

CheckInput = Union[str, "os.PathLike[str]", Bundle, Family, Mapping[str, Any]]

REPORT_SUFFIXES = (".html", ".png", ".svg", ".pdf")
MAX_MEMBERS_FOR_ALL_PAIRS = 4
"""Up to this many members every pair is judged; beyond, each with the first."""
SAME_ARCHITECTURE_ADVICE = "Blend checkpoints of one architecture in one size: same names, same shapes."
MAX_LISTED_DIFFERENCES = 3
"""Differences that are listed of a member of another network."""
NO_ALIGNMENT_MESSAGE = "No permutation of channels was looked for: that needs scipy, pip install 'dni-deploy[tune]'."


def check(
    source: CheckInput,
    *,
    image: Paths | None = None,
    reference: Paths | None = None,
    key: str | None = None,
    report: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: OptionalProgress = None,
) -> CheckReport:
    """Compares the members' filters (Eq. 3) and what the network computes halfway between them.

    A poor verdict is a result, no error, and so are members of different networks.

    Args:
        source: A bundle, or checkpoints by name: {"psnr": "psnr.pth", "gan": "gan.pth#generator"}.
        image: Test images instead of the drawn one and a photograph: files, or folders of them; the center of each is used.
        reference: The expected outputs, in the same order: adds the loss barrier.
        key: The entry to read in each checkpoint that names none; None to find the one that holds the network.
        report: A file to write: .html with images, figures and tables; .png, .svg or .pdf with a plot of the layers.
        force: Replace a report that exists.
        progress: Called with the runs of the network done.

    Returns:
        The report.

    Raises:
        UsageError: Fewer than two members, or a report that exists.
        MismatchError: References of another size or number.
        EngineError: The engine fails its verification, so that nothing can be said.
        InputError: A checkpoint or an image cannot be read.

    Source: Eq. 3 of the DNI paper.
    """
    suffix = _check_report_path(report, force)
    if reference is not None and image is None:
        raise UsageError("References are for images: give --image as well.")
    images = None if image is None else _read_images(image)
    references = None if reference is None else [rgb for _, rgb in _read_images(reference)]
    family, bundle, misfits, sentences = _read_family(source, key)
    family_report, trial = (
        (None, PairMeasurements()) if family is None else _check_family(family, bundle, images, references, progress)
    )
    result = _add_mismatches(family_report, misfits, sentences)
    if suffix is None or report is None:
        return result
    _write_report(result, trial, report, suffix, force)
    return replace(result, report=os.fspath(report))


def _check_family(
    family: Family,
    bundle: Bundle | None,
    images: list[tuple[str, Frame]] | None,
    references: list[Frame] | None,
    progress: OptionalProgress,
) -> tuple[CheckReport, PairMeasurements]:
    layers = find_filter_layers(family.members[0].checkpoint.tensors, _transposed_convolutions(bundle))
    pairs = _choose_pairs(family)
    calibration = None if bundle is None else read_network(bundle).describe_calibration()
    trial, architecture, note = _measure_pairs(family, bundle, pairs, images, references, progress)
    rows: list[LayerCorrelation] = []
    moved: list[BatchNormDifference] = []
    pair_reports: list[PairReport] = []
    table = measure_pairwise_distances([member.checkpoint.tensors for member in family.members])
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
                verdict.reasons, verdict.advice,
            )
        )  # fmt: skip
    notes = [
        *family.notes,
        *([note] if note else []),
        *([NO_ALIGNMENT_MESSAGE] if _has_low_correlation(rows) and not can_align() else []),
    ]
    if calibration is not None:
        notes.append(f"This bundle's blends are calibrated, at {calibration['calibration_points']} alphas.")
    order = tuple(family.names[place] for place in order_by_shortest_path(table))
    advice = [sentence for row in pair_reports for sentence in row.advice]
    if len(order) > 2:
        advice.append(f"The nearest neighbors are side by side in the order {', '.join(order)}: sweep and slide along it.")
    report = CheckReport(
        verdict=VERDICTS[max(VERDICTS.index(row.verdict) for row in pair_reports)],
        members=family.names,
        architecture=architecture,
        median=min((row.median for row in pair_reports if row.median is not None), default=None),
        reasons=tuple(sentence for row in pair_reports for sentence in row.reasons),
        advice=tuple(dict.fromkeys(advice)),
        notes=tuple(notes),
        pairs=tuple(pair_reports),
        compared=family.names,
        distances=tuple(tuple(float(value) for value in row) for row in table),
        order=order,
        layers=tuple(rows),
        drifts=tuple(moved),
        midpoints=tuple(trial.midpoints),
        barriers=tuple(trial.barriers),
        norms=tuple(trial.norm_mismatches),
        calibration=calibration,
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
    bundle: Bundle | None,
    pairs: list[tuple[str, str]],
    images: list[tuple[str, Frame]] | None,
    references: list[Frame] | None,
    progress: OptionalProgress,
) -> tuple[PairMeasurements, str | None, str | None]:
    """What came out of the networks, the architecture's name, and why nothing ran."""
    with ExitStack() as stack:
        try:
            runner = stack.enter_context(open_runner(family, bundle))
        except UnavailableError as problem:
            return PairMeasurements(), bundle.architecture if bundle else None, f"No midpoint was computed: {problem}"
        except MismatchError as problem:
            if bundle is not None:
                raise
            return PairMeasurements(), None, f"No midpoint was computed, because the architecture is not known: {problem}"
        except (InputError, LimitError) as problem:
            if bundle is not None:
                raise
            return PairMeasurements(), None, f"No midpoint was computed, because the network cannot be exported: {problem}"
        inputs = make_sample_inputs(runner.signature, images or _default_images(runner.signature), references)
        return measure_pairs(runner, pairs, inputs, progress), runner.architecture, None


def _default_images(signature: Signature) -> list[tuple[str, Frame]]:
    """The drawn picture and the photograph that ships with the package."""
    with as_file(files("dni_deploy") / "data" / "astronaut.png") as path:
        return [("drawn", draw_test_image(TEST_SIDE_PX * min(signature.scale, 2))), ("astronaut", read_image(path).rgb)]


def _read_images(paths: Paths) -> list[tuple[str, Frame]]:
    """Files, and the pictures of folders by name."""
    return [(path.name, read_image(path).rgb) for path in list_images(paths)]


def _read_family(
    source: CheckInput, key: str | None
) -> tuple[Family | None, Bundle | None, tuple[ArchitectureMismatch, ...], tuple[str, ...]]:
    """The members that fit the first one (None where it is alone), and those that do not, with a sentence for each."""
    if isinstance(source, Family):
        return source, None, (), ()
    if not isinstance(source, Mapping):
        bundle = Bundle.ensure_open(source)
        members = {
            name: Checkpoint.from_state_dict(bundle.read_tensors(name), f"{bundle.path} ({name})") for name in bundle.members
        }
        return Family.from_checkpoints(members), bundle, (), ()
    first, *others = read_members(source, key=key, recognizers=_make_recognizers())
    fitting, misfits, sentences = {first.name: first.checkpoint}, [], []
    for member in others:
        unlike = find_differences(first.checkpoint, member.checkpoint)
        if unlike:
            misfits.append(ArchitectureMismatch(first.name, member.name, len(unlike), tuple(unlike[:MAX_LISTED_DIFFERENCES])))
            sentences.append(describe_mismatch(first, member, unlike))
        else:
            fitting[member.name] = member.checkpoint
    return (Family.from_checkpoints(fitting) if len(fitting) > 1 else None), None, tuple(misfits), tuple(sentences)


def _make_recognizers() -> tuple[Recognizer, ...]:
    """What knows networks; nothing without PyTorch, as checkpoints are compared without it."""
    try:
        recognizers: tuple[Recognizer, ...] = import_optional("exporters.architectures.recognize").make_recognizers("auto")
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


def _transposed_convolutions(bundle: Bundle | None) -> set[str] | None:
    if bundle is None:
        return None
    return {node.input[1] for node in bundle.read_graph().graph.node if node.op_type == "ConvTranspose"}


def _choose_pairs(family: Family) -> list[tuple[str, str]]:
    if len(family.names) <= MAX_MEMBERS_FOR_ALL_PAIRS:
        return list(combinations(family.names, 2))
    return [(family.names[0], name) for name in family.names[1:]]


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
