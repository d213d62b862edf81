"""Opens a bundle on the CPU: verified in place, or with a session that is rebuilt for every alpha."""

from __future__ import annotations

import logging

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError
from engines.calibrated_network import CalibratedNetwork, read_network
from engines.interface import Engine, EngineOptions
from engines.onnxruntime_cpu.engine import InPlaceEngine
from engines.onnxruntime_cpu.layout import find_layout
from engines.onnxruntime_cpu.lowering.passes import lower_for_cpu
from engines.onnxruntime_cpu.plan import LayoutIdentity, read_plan
from engines.onnxruntime_cpu.rebuild import RebuildEngine
from engines.onnxruntime_cpu.verify_in_place import verify_engine

log = logging.getLogger(__name__)

DEFAULT_SLOTS = 2


def open_in_place(bundle: Bundle, options: EngineOptions) -> Engine:
    """Opens the in-place engine, verified, or the rebuilding one with its reason in `update_path`.

    Args:
        bundle: The bundle. The layout comes from its plan for this machine where `dni-deploy build` wrote one; else it is found
            anew.
        options: Threads and slots are used.

    Returns:
        The engine; every slot still needs its first refit.

    Raises:
        BundleError: The plan is another one, renamed.
    """
    network = read_network(bundle)
    try:
        lowered, recipes = lower_for_cpu(network.graph, network.weight_names)
        layout = read_plan(bundle, LayoutIdentity.of(lowered, recipes)) or find_layout(lowered, recipes)
    except EngineError as error:
        return _open_rebuilding(network, options, error)
    members = network.read_members()  # not before: finding the layout takes as much memory as two members
    table = network.make_table(members)
    slots = options.slots or DEFAULT_SLOTS
    try:
        engine = InPlaceEngine(layout, recipes, members, threads=options.threads, slots=slots, calibration=table)
        del layout  # its map is as large as a member, and only a plan needs it later
        verify_engine(engine, network.graph, members, bundle.signature, table)
    except EngineError as error:
        return _open_rebuilding(network, options, error)
    return engine


def _open_rebuilding(network: CalibratedNetwork, options: EngineOptions, error: EngineError) -> RebuildEngine:
    reason = str(error).rstrip(".")
    log.info("weights are not updated in place: %s", reason)
    members = network.read_members()
    slots = options.slots or DEFAULT_SLOTS
    table = network.make_table(members)
    return RebuildEngine(network.graph, members, threads=options.threads, slots=slots, reason=reason, calibration=table)
