"""ONNX Runtime on the CPU: weights in place at full speed, or a new session for every alpha where a graph forbids it."""

from __future__ import annotations

from typing import Any

import onnx
from numpy.typing import NDArray

from dni_deploy.blending.batchnorm_stats import Recalibration
from dni_deploy.blending.batchnorm_stats_file import read_recalibration
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError, UsageError, shown
from dni_deploy.utils.progress import MaybeProgress, tell
from engines import Built
from engines.interface import Engine
from engines.lowering.recipes import Recipes
from engines.onnxruntime_cpu.alternatives import ConstantEngine, GraphEngine, InputsEngine
from engines.onnxruntime_cpu.engine import InPlaceEngine
from engines.onnxruntime_cpu.layout import Layout, NotInPlace, find_layout
from engines.onnxruntime_cpu.lowering import lower
from engines.onnxruntime_cpu.plan import PlanIdentity, plan_path, read_plan, write_plan
from engines.onnxruntime_cpu.rebuild import RebuildEngine
from engines.onnxruntime_cpu.verify_in_place import verify_blend, verify_each, verify_effect
from engines.options import BuildOptions, EngineOptions

SLOTS = 2


def open_in_place(bundle: Bundle, options: EngineOptions) -> Engine:
    """The engine for a bundle: verified in place, or the rebuilding one with its reason in `road`.

    The layout comes from the bundle's plan for this machine where `dni-deploy build` wrote one; else it is found anew.
    """
    graph, members = bundle.graph(), _members(bundle)
    known = read_recalibration(bundle, members)
    threads, slots = options.threads, options.slots or SLOTS
    try:
        lowered, recipes = lower(graph, bundle.weight_names)
        layout = read_plan(bundle, PlanIdentity.of(lowered, recipes)) or find_layout(lowered, recipes)
        engine = InPlaceEngine(layout, recipes, members, threads=threads, slots=slots, recalibration=known)
        _verify(engine, bundle, graph, members, known)
    except EngineError as reason:
        why = str(reason).rstrip(".")
        return RebuildEngine(graph, members, threads=threads, slots=slots, reason=why, recalibration=known)
    return engine


def build_plan(bundle: Bundle, options: BuildOptions, progress: MaybeProgress = None) -> Built:
    """Find the layout, verify it weight by weight, and write it as the bundle's plan for this machine.

    Where a graph forbids it there is no plan, and `road` says why. Raises UsageError if the plan exists.
    """
    lowered, recipes = lower(bundle.graph(), bundle.weight_names)
    identity = PlanIdentity.of(lowered, recipes)
    path = plan_path(bundle, identity)
    kept = read_plan(bundle, identity) if options.keep and not options.force else None
    if kept is None and path.exists() and not options.force:
        raise UsageError(f"{shown(path)} exists; give --force to build it again. Nothing was written.")
    try:
        return _built(bundle, lowered, recipes, options, kept, progress)
    except NotInPlace as reason:
        road = f"a new session for every alpha ({str(reason).rstrip('.')}); there is nothing to build ahead"
        return Built(None, road, 0, None)


def _built(
    bundle: Bundle,
    lowered: onnx.ModelProto,
    recipes: Recipes,
    options: BuildOptions,
    kept: Layout | None,
    progress: MaybeProgress,
) -> Built:
    graph, members = bundle.graph(), _members(bundle)
    known = read_recalibration(bundle, members)
    tell(progress, 0, 1, "optimizing the graph")
    identity = PlanIdentity.of(lowered, recipes)
    layout = kept or find_layout(lowered, recipes)
    engine = InPlaceEngine(layout, recipes, members, threads=options.threads, slots=1, recalibration=known)
    tell(progress, 0, 1, "comparing a blend with a rebuilt session")
    error = _verify(engine, bundle, graph, members, known)
    if kept is not None:
        engine.close()
        return Built(plan_path(bundle, identity), InPlaceEngine.road, len(layout.slots), error, kept=True)
    try:
        for done, total in verify_each(engine, bundle.signature):
            tell(progress, done, total, "changing each weight in place")
    finally:
        engine.close()
    written = write_plan(bundle, layout, identity, force=options.force)
    return Built(written, InPlaceEngine.road, len(layout.slots), error)


def _verify(
    engine: InPlaceEngine,
    bundle: Bundle,
    graph: onnx.ModelProto,
    members: list[dict[str, NDArray[Any]]],
    known: Recalibration | None,
) -> float:
    """What every in-place engine passes before its first frame; the blend's relative error. An engine that fails is closed."""
    try:
        error = verify_blend(engine, graph, members, bundle.signature, known)
        verify_effect(engine, bundle.signature)
    except BaseException:
        engine.close()
        raise
    return error


def open_rebuild(bundle: Bundle, options: EngineOptions) -> Engine:
    """A new session for every alpha."""
    members = _members(bundle)
    known = read_recalibration(bundle, members)
    return RebuildEngine(bundle.graph(), members, threads=options.threads, slots=options.slots or SLOTS, recalibration=known)


def open_constant(bundle: Bundle, options: EngineOptions) -> Engine:
    """The first member with constant weights; alpha cannot change."""
    return ConstantEngine(
        bundle.graph(), bundle.weight_names, _members(bundle), threads=options.threads, slots=options.slots or SLOTS
    )


def open_inputs(bundle: Bundle, options: EngineOptions) -> Engine:
    """Weights as graph inputs."""
    return _fed(InputsEngine, bundle, options)


def open_in_graph(bundle: Bundle, options: EngineOptions) -> Engine:
    """Alpha as a graph input."""
    return _fed(GraphEngine, bundle, options)


def _fed(kind: type[InputsEngine] | type[GraphEngine], bundle: Bundle, options: EngineOptions) -> Engine:
    members = _members(bundle)
    known = read_recalibration(bundle, members)
    slots = options.slots or SLOTS
    return kind(bundle.graph(), bundle.weight_names, members, threads=options.threads, slots=slots, recalibration=known)


def _members(bundle: Bundle) -> list[dict[str, NDArray[Any]]]:
    return [bundle.weights(member) for member in bundle.members]
