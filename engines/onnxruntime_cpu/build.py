"""Builds a bundle's plan for this machine: the layout of its optimized graph, verified weight by weight."""

from __future__ import annotations

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import UsageError, escape_name
from dni_deploy.utils.progress import OptionalProgress, report_progress
from engines.calibrated_network import CalibratedNetwork, read_network
from engines.interface import BuildOptions, BuildResult
from engines.lowering.recipes import Recipes
from engines.onnxruntime_cpu.engine import InPlaceEngine
from engines.onnxruntime_cpu.layout import InPlaceUnsupportedError, Layout, find_layout
from engines.onnxruntime_cpu.lowering.passes import lower_for_cpu
from engines.onnxruntime_cpu.plan import LayoutIdentity, plan_path, read_plan, write_plan
from engines.onnxruntime_cpu.verify_in_place import verify_each_weight, verify_engine


def build_plan(bundle: Bundle, options: BuildOptions, progress: OptionalProgress = None) -> BuildResult:
    """Finds the layout, verifies it weight by weight, and writes it as the bundle's plan for this machine.

    Args:
        bundle: The bundle.
        options: Threads, `force` and `keep` are used.
        progress: Called as the build proceeds.

    Returns:
        What was built. Where the graph forbids in-place weights there is no plan, and `update_path` says why.

    Raises:
        UsageError: The plan exists, and neither `force` nor `keep` is set.
        BundleError: The plan that is to be kept is another one.
        EngineError: ONNX Runtime cannot run the network.
    """
    report_progress(progress, 0, 1, "optimizing the graph")
    network = read_network(bundle)
    lowered, recipes = lower_for_cpu(network.graph, network.weight_names)
    identity = LayoutIdentity.of(lowered, recipes)
    path = plan_path(bundle, identity)
    kept_layout = read_plan(bundle, identity) if options.keep and not options.force else None
    if kept_layout is None and path.exists() and not (options.force or options.keep):
        raise UsageError(f"{escape_name(path)} exists; give --force to build it again. Nothing was written.")
    try:
        layout = kept_layout or find_layout(lowered, recipes)
        error = _verify_layout(network, layout, recipes, options.threads, progress, each_weight=kept_layout is None)
    except InPlaceUnsupportedError as reason:
        update_path = f"a new session for every alpha ({str(reason).rstrip('.')}); there is nothing to build ahead"
        return BuildResult(None, update_path, 0, None)
    if kept_layout is None:
        write_plan(bundle, layout, identity, force=options.force or options.keep)
    return BuildResult(path, InPlaceEngine.update_path, len(layout.spans), error, plan_kept=kept_layout is not None)


def _verify_layout(
    network: CalibratedNetwork, layout: Layout, recipes: Recipes, threads: int, progress: OptionalProgress, *, each_weight: bool
) -> float:
    """Opens an engine with the layout, verifies it, and closes it; returns the blend's relative error."""
    members = network.read_members()
    table = network.make_table(members)
    engine = InPlaceEngine(layout, recipes, members, threads=threads, slots=1, calibration=table)
    report_progress(progress, 0, 1, "comparing a blend with a rebuilt session")
    error = verify_engine(engine, network.graph, members, network.bundle.signature, table)
    try:
        if each_weight:
            for done, total in verify_each_weight(engine, network.bundle.signature):
                report_progress(progress, done, total, "changing each weight in place")
    finally:
        engine.close()
    return error
