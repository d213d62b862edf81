"""Fits what corrects the blends of a family, by each method, and chooses the best on crops that no fit has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from dni_deploy.blending.calibration_table import CalibrationTable, enumerate_calibration_points
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.calibration.batch_norm import BatchNormShift, fit_batch_norm, measure_shift, read_moments
from dni_deploy.calibration.candidate_network import CandidateNetwork
from dni_deploy.calibration.channels import find_correctable_layers, fit_channels
from dni_deploy.calibration.output import fit_output
from dni_deploy.calibration.score import MethodScore, blend_outputs, make_held_back, score_method
from dni_deploy.errors import MismatchError, UsageError
from dni_deploy.utils.progress import OptionalProgress, report_progress
from engines.calibrated_network import list_statistics_names
from engines.lowering.calibration_nodes import (
    CorrectedLayer,
    Correction,
    add_neutral_tensors,
    find_output_layer,
    insert_calibration_nodes,
    parameter_names,
)

Method = Literal["none", "output", "channels"]
METHODS: tuple[Method, ...] = get_args(Method)
"""In the order of how much of the network they change."""

CROPS_PER_BATCH = 8
"""Number of crops that go through the network at once: the activations of more would only take memory."""

CHANNEL_CROPS = 24
"""Number of crops whose channels are measured, in one batch, since each layer normalizes by the whole of it while it is fitted. In
batches of 8 the public families lost 3 dB more: what differs from batch to batch is then normalized away."""

HELD_BACK_STEP = 4
"""Every so many crops one is held back to score with."""

MIN_GAIN_DB = 0.1
"""What a method has to gain, in the mean over the calibration points, over one that changes less."""

Tensors = Mapping[str, NDArray[Any]]


class Candidate(NamedTuple):
    """What one method fitted.

    Attributes:
        layers: The layers that it corrects by nodes of their own.
        statistics: float64 (K, C) by the name of a tensor: a row for each calibration point that is no member alone.
    """

    layers: tuple[CorrectedLayer, ...]
    statistics: dict[str, NDArray[np.float64]]


class CalibrationFit(NamedTuple):
    """The method that was chosen, and why.

    Attributes:
        method: Its name.
        table: What it fitted; None for "none".
        scores: The score of each method that was tried; empty where one was demanded.
        shifts: How far each BatchNorm moved, in the network's order; empty where the table has none.
    """

    method: Method
    table: CalibrationTable | None
    scores: tuple[MethodScore, ...]
    shifts: tuple[BatchNormShift, ...]


def fit_calibration(
    bundle: Bundle,
    inputs: NDArray[np.float32],
    steps: int,
    method: str = "auto",
    about: Mapping[str, Any] | None = None,
    threads: int = 0,
    progress: OptionalProgress = None,
) -> CalibrationFit:
    """Fits a calibration. Nothing is written.

    Args:
        bundle: The bundle.
        inputs: float32 (B, C, H, W), in the network's range.
        steps: Grid steps along an edge of the simplex.
        method: "output", "channels", or "auto" for the one that gives the most on crops held back; a network that makes images
            from noise has no "output".
        about: How the inputs came to be, for the record.
        threads: Number of threads; 0: one per core.
        progress: Called with the points done, step by step.

    Returns:
        What was fitted.

    Raises:
        UsageError: There is no such method, or too few inputs to hold some back.
        MismatchError: The network has nothing that the method could correct.
        EngineError: The network failed.
    """
    if method not in ("auto", "output", "channels"):
        raise UsageError(f"A calibration's method is auto, output or channels; got {method!r}.")
    latent = bundle.signature.kind == "latent"
    if latent and method == "output":
        raise UsageError("A network that makes images from noise is calibrated by its channels, not by its output.")
    fitter = _Fitter(bundle, steps, about or {}, threads, progress)
    if latent or method != "auto":
        chosen: Method = "output" if method == "output" else "channels"
        return fitter.finish(chosen, fitter.fit(chosen, inputs), ())
    if len(inputs) < 2:
        raise UsageError("A calibration needs at least two crops, to fit on one and to score on the other.")
    is_held_back = np.arange(len(inputs)) % HELD_BACK_STEP == min(HELD_BACK_STEP, len(inputs)) - 1
    candidates: dict[Method, Candidate] = {"none": Candidate((), {}), "output": fitter.fit("output", inputs[~is_held_back])}
    if fitter.has_batch_norm or find_correctable_layers(fitter.graph, bundle.weight_names):
        candidates["channels"] = fitter.fit("channels", inputs[~is_held_back])
    scores = fitter.score(candidates, inputs[is_held_back])
    best = METHODS[0]
    for name in candidates:
        if scores[name].mean_psnr > scores[best].mean_psnr + MIN_GAIN_DB:
            best = name
    return fitter.finish(best, candidates[best], tuple(scores.values()))


class _Fitter:
    """The network of one bundle and the points at which it is calibrated."""

    def __init__(self, bundle: Bundle, steps: int, about: Mapping[str, Any], threads: int, progress: OptionalProgress) -> None:
        report_progress(progress, 0, 1, "reading the members")
        self.signature, self.steps, self.about = bundle.signature, steps, about
        self.graph, self.members = bundle.read_graph(), bundle.read_all_weights()
        self.has_batch_norm = bool(list_statistics_names(bundle, self.graph))
        self.points = enumerate_calibration_points(len(self.members), steps) / steps
        self.is_inner = self.points.max(axis=1) < 1.0
        self.inner_points = self.points[self.is_inner]
        self._threads, self._progress = threads, progress
        self._shifts: tuple[BatchNormShift, ...] = ()

    def fit(self, method: Method, inputs: NDArray[np.float32]) -> Candidate:
        """Fits one method."""
        if method == "output":
            return self._fit_output(_make_batches(inputs))
        if self.has_batch_norm:
            return self._fit_batch_norm(_make_batches(inputs))
        return self._fit_channels(inputs)

    def _fit_batch_norm(self, batches: list[NDArray[np.float32]]) -> Candidate:
        moments, layers = fit_batch_norm(self.graph, self.members, self.points, batches, self._threads, self._progress)
        statistics = {}
        for layer in layers:
            rows = [pair for pair, inner in zip(moments[layer.mean], self.is_inner, strict=True) if inner]
            statistics[layer.mean] = np.stack([mean for mean, _ in rows])
            statistics[layer.variance] = np.stack([variance for _, variance in rows])
        table = CalibrationTable.from_inner_statistics(self.members, self.steps, statistics, self.about)
        self._shifts = tuple(measure_shift(layer, table, read_moments(layer, self.members)) for layer in layers)
        return Candidate((), statistics)

    def _fit_channels(self, inputs: NDArray[np.float32]) -> Candidate:
        step = -(-len(inputs) // CHANNEL_CROPS)
        corrections = fit_channels(self.graph, self.members, self.inner_points, [inputs[::step]], self._threads, self._progress)
        if not corrections:
            raise MismatchError(
                "The network has no BatchNorm and no convolution with a bias of its own, so that its channels cannot be calibrated."
            )
        return _make_candidate(corrections)

    def _fit_output(self, batches: list[NDArray[np.float32]]) -> Candidate:
        network = CandidateNetwork(self.graph, self.members, threads=self._threads)
        outputs = [network.run(point, batches) for point in np.eye(len(self.members))]
        layer, channels = find_output_layer(self.graph, self.members[0], self.signature.output_channels)
        corrections = []
        for number, point in enumerate(self.inner_points):
            report_progress(self._progress, number, len(self.inner_points), "outputs of the blends")
            corrections.append(fit_output(network.run(point, batches), blend_outputs(outputs, point), channels))
        return _make_candidate({layer: corrections})

    def score(self, candidates: Mapping[Method, Candidate], inputs: NDArray[np.float32]) -> dict[Method, MethodScore]:
        """Scores what was fitted on other inputs."""
        held_back = make_held_back(inputs, self.signature, CROPS_PER_BATCH)
        plain = CandidateNetwork(self.graph, self.members, threads=self._threads)
        outputs = [plain.run(point, held_back.batches) for point in np.eye(len(self.members))]
        scores = {}
        for number, (name, candidate) in enumerate(candidates.items()):
            report_progress(self._progress, number, len(candidates), f"scoring the method {name}")
            network = plain if name == "none" else self._open(candidate)
            scores[name] = score_method(name, network, self.inner_points, outputs, held_back, self.signature)
        return scores

    def _open(self, candidate: Candidate) -> CandidateNetwork:
        graph = insert_calibration_nodes(self.graph, candidate.layers)
        members = add_neutral_tensors(self.members, candidate.layers)
        return CandidateNetwork(graph, members, self._make_table(candidate), self._threads)

    def finish(self, method: Method, candidate: Candidate, scores: tuple[MethodScore, ...]) -> CalibrationFit:
        """Makes the table of the chosen candidate."""
        if method == "none":
            return CalibrationFit(method, None, scores, ())
        shifts = self._shifts if method == "channels" else ()
        return CalibrationFit(method, self._make_table(candidate, {"method": method}), scores, shifts)

    def _make_table(self, candidate: Candidate, about: Mapping[str, Any] | None = None) -> CalibrationTable:
        members = add_neutral_tensors(self.members, candidate.layers)
        return CalibrationTable.from_inner_statistics(
            members, self.steps, candidate.statistics, {**self.about, **(about or {})}
        )


def _make_candidate(corrections: Mapping[CorrectedLayer, Sequence[Correction]]) -> Candidate:
    statistics = {}
    for layer, rows in corrections.items():
        scale, shift = parameter_names(layer.value)[:2]
        statistics[scale] = np.stack([row.scale for row in rows])
        statistics[shift] = np.stack([row.shift for row in rows])
    return Candidate(tuple(corrections), statistics)


def _make_batches(inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [inputs[start : start + CROPS_PER_BATCH] for start in range(0, len(inputs), CROPS_PER_BATCH)]
