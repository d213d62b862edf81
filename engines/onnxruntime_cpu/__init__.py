"""ONNX Runtime on the CPU: weights in place at full speed, or a new session for every alpha where a graph forbids it."""

from __future__ import annotations

from typing import Any

import onnx
from numpy.typing import NDArray

from dni_deploy.blending.batchnorm_stats import BatchNormTable
from dni_deploy.blending.batchnorm_stats_file import read_recalibration
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError, UsageError, escape_name
from dni_deploy.utils.progress import OptionalProgress, report_progress
from engines.interface import BuildOptions, BuildResult, Engine, EngineOptions
from engines.lowering.recipes import Recipes
from engines.onnxruntime_cpu.alternatives import OrtConstantBaseline, OrtGraphBaseline, OrtInputsBaseline
from engines.onnxruntime_cpu.engine import InPlaceEngine
from engines.onnxruntime_cpu.layout import InPlaceUnsupportedError, Layout, find_layout
from engines.onnxruntime_cpu.lowering import lower_for_cpu
from engines.onnxruntime_cpu.plan import PlanIdentity, plan_path, read_plan, write_plan
from engines.onnxruntime_cpu.rebuild import RebuildEngine
from engines.onnxruntime_cpu.verify_in_place import verify_blend, verify_each_weight, verify_weight_effect

DEFAULT_SLOTS = 2


def open_in_place(bundle: Bundle, options: EngineOptions) -> Engine:
    """The engine for a bundle: verified in place, or the rebuilding one with its reason in `road`.

    The layout comes from the bundle's plan for this machine where `dni-deploy build` wrote one; else it is found anew.
    """
    graph, members = bundle.read_graph(), _read_members(bundle)
    known = read_recalibration(bundle, members)
    threads, slots = options.threads, options.slots or DEFAULT_SLOTS
    try:
        lowered, recipes = lower_for_cpu(graph, bundle.weight_names)
        layout = read_plan(bundle, PlanIdentity.of(lowered, recipes)) or find_layout(lowered, recipes)
        engine = InPlaceEngine(layout, recipes, members, threads=threads, slots=slots, recalibration=known)
        _verify_engine(engine, bundle, graph, members, known)
    except EngineError as reason:
        why = str(reason).rstrip(".")
        return RebuildEngine(graph, members, threads=threads, slots=slots, reason=why, recalibration=known)
    return engine


def build_plan(bundle: Bundle, options: BuildOptions, progress: OptionalProgress = None) -> BuildResult:
    """Find the layout, verify it weight by weight, and write it as the bundle's plan for this machine.

    Where a graph forbids it there is no plan, and `road` says why. Raises UsageError if the plan exists.
    """
    lowered, recipes = lower_for_cpu(bundle.read_graph(), bundle.weight_names)
    identity = PlanIdentity.of(lowered, recipes)
    path = plan_path(bundle, identity)
    kept = read_plan(bundle, identity) if options.keep and not options.force else None
    if kept is None and path.exists() and not options.force:
        raise UsageError(f"{escape_name(path)} exists; give --force to build it again. Nothing was written.")
    try:
        return _build_verified_plan(bundle, lowered, recipes, options, kept, progress)
    except InPlaceUnsupportedError as reason:
        road = f"a new session for every alpha ({str(reason).rstrip('.')}); there is nothing to build ahead"
        return BuildResult(None, road, 0, None)


def _build_verified_plan(
    bundle: Bundle,
    lowered: onnx.ModelProto,
    recipes: Recipes,
    options: BuildOptions,
    kept_layout: Layout | None,
    progress: OptionalProgress,
) -> BuildResult:
    graph, members = bundle.read_graph(), _read_members(bundle)
    known = read_recalibration(bundle, members)
    report_progress(progress, 0, 1, "optimizing the graph")
    identity = PlanIdentity.of(lowered, recipes)
    layout = kept_layout or find_layout(lowered, recipes)
    engine = InPlaceEngine(layout, recipes, members, threads=options.threads, slots=1, recalibration=known)
    report_progress(progress, 0, 1, "comparing a blend with a rebuilt session")
    error = _verify_engine(engine, bundle, graph, members, known)
    if kept_layout is not None:
        engine.close()
        return BuildResult(plan_path(bundle, identity), InPlaceEngine.update_path, len(layout.spans), error, plan_kept=True)
    try:
        for done, total in verify_each_weight(engine, bundle.signature):
            report_progress(progress, done, total, "changing each weight in place")
    finally:
        engine.close()
    written = write_plan(bundle, layout, identity, force=options.force)
    return BuildResult(written, InPlaceEngine.update_path, len(layout.spans), error)


def _verify_engine(
    engine: InPlaceEngine,
    bundle: Bundle,
    graph: onnx.ModelProto,
    members: list[dict[str, NDArray[Any]]],
    recalibration: BatchNormTable | None,
) -> float:
    """What every in-place engine passes before its first frame; the blend's relative error. An engine that fails is closed."""
    try:
        error = verify_blend(engine, graph, members, bundle.signature, recalibration)
        verify_weight_effect(engine, bundle.signature)
    except BaseException:
        engine.close()
        raise
    return error


def open_rebuild(bundle: Bundle, options: EngineOptions) -> Engine:
    """A new session for every alpha."""
    members = _read_members(bundle)
    known = read_recalibration(bundle, members)
    return RebuildEngine(
        bundle.read_graph(), members, threads=options.threads, slots=options.slots or DEFAULT_SLOTS, recalibration=known
    )


def open_constant(bundle: Bundle, options: EngineOptions) -> Engine:
    """The first member with constant weights; alpha cannot change."""
    return OrtConstantBaseline(
        bundle.read_graph(),
        bundle.weight_names,
        _read_members(bundle),
        threads=options.threads,
        slots=options.slots or DEFAULT_SLOTS,
    )


def open_inputs(bundle: Bundle, options: EngineOptions) -> Engine:
    """Weights as graph inputs."""
    return _open_baseline(OrtInputsBaseline, bundle, options)


def open_in_graph(bundle: Bundle, options: EngineOptions) -> Engine:
    """Alpha as a graph input."""
    return _open_baseline(OrtGraphBaseline, bundle, options)


def _open_baseline(
    engine_class: type[OrtInputsBaseline] | type[OrtGraphBaseline], bundle: Bundle, options: EngineOptions
) -> Engine:
    members = _read_members(bundle)
    known = read_recalibration(bundle, members)
    slots = options.slots or DEFAULT_SLOTS
    return engine_class(
        bundle.read_graph(), bundle.weight_names, members, threads=options.threads, slots=slots, recalibration=known
    )


def _read_members(bundle: Bundle) -> list[dict[str, NDArray[Any]]]:
    return [bundle.read_weights(member) for member in bundle.members]
