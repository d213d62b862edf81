"""Building a plan: from a bundle's graph to a verified TensorRT engine on disk, through Polygraphy, in minutes."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import tensorrt as trt
from polygraphy.backend.trt import CreateConfig, CreateNetwork, EngineBytesFromNetwork
from polygraphy.backend.trt import Profile as TensorRTProfile
from polygraphy.backend.trt import util as polygraphy_util
from polygraphy.exception import PolygraphyException
from polygraphy.logger import G_LOGGER

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import DniError, EngineError, UsageError, escape_name
from dni_deploy.utils.atomic_write import write_bytes_atomically
from dni_deploy.utils.hardware import cache_folder
from dni_deploy.utils.progress import OptionalProgress, report_progress
from engines.cuda.device import Device
from engines.interface import BuildOptions, BuildResult, EngineOptions
from engines.profile import Profile
from engines.trt.engine import RefitEngine, TensorRTEngine
from engines.trt.features import Features, detect_features
from engines.trt.messages import clear_errors, drop_variables, get_logger, make_engine_error, summarize_message
from engines.trt.plan import OutputSample, Plan, PlanHeader, plan_path, read_plan, write_plan
from engines.trt.plan_identity import BuildSettings, PlanIdentity
from engines.verification import Reference, sample_output, verify_at, verify_members

log = logging.getLogger(__name__)


def make_progress_monitor(progress: OptionalProgress) -> Any:
    """Makes a trt.IProgressMonitor that reports to `progress`, for TensorRTs that have it.

    Its attribute `stopped` is the exception that ended the build, or None.
    """

    class ProgressMonitor(trt.IProgressMonitor):  # type: ignore[misc]  # no types are shipped
        """Counts the steps of the outermost phase under the name of the innermost.

        Thread safety: TensorRT calls it from any thread; it must not raise.
        """

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped: BaseException | None = None
            self.phases: dict[str, tuple[str | None, int, int]] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases[phase_name] = (parent_phase, 0, num_steps)
            self._report_phase(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            parent, _, total = self.phases.get(phase_name, (None, 0, 1))
            self.phases[phase_name] = (parent, step + 1, total)
            self._report_phase(phase_name)
            return self.stopped is None

        def phase_finish(self, phase_name: str) -> None:
            self.phases.pop(phase_name, None)

        def _report_phase(self, name: str) -> None:
            outer = name
            for _ in self.phases:
                parent = self.phases.get(outer, (None, 0, 1))[0]
                if not parent or parent not in self.phases:
                    break
                outer = parent
            _, done, total = self.phases.get(outer, (None, 0, 1))
            try:
                report_progress(progress, min(done, total), max(total, 1), name)
            except BaseException as stopped:  # Ctrl-C too: it may not go through TensorRT, so it waits for its return
                self.stopped = stopped

    return ProgressMonitor()


@dataclass(frozen=True)
class BuildRequest:
    """What to build.

    Attributes:
        model: The ONNX graph, with data in its initializers.
        settings: Everything else that the builder gets.
        refittable_names: Names of the initializers that take new values later; empty for none.
    """

    model: onnx.ModelProto
    settings: BuildSettings
    refittable_names: tuple[str, ...] = ()


def build_serialized_engine(request: BuildRequest, features: Features, progress: OptionalProgress = None) -> bytes:
    """Builds an engine; the caller holds the device.

    Args:
        request: What to build.
        features: What this TensorRT can do.
        progress: Called with the phases.

    Returns:
        The engine as TensorRT serializes it.

    Raises:
        UsageError: The profile does not fit the graph, or this TensorRT cannot strip.
        EngineError: TensorRT cannot read or build the graph.
    """
    _check_request(request, features)
    settings = request.settings
    monitor = make_progress_monitor(progress) if features.progress else None
    clear_errors()
    try:
        with _silence_polygraphy():
            kind = {"explicit_batch": settings.explicit_batch, "strongly_typed": settings.strongly_typed}
            builder, network = CreateNetwork(**kind)()  # every flag is passed: older Polygraphys do not know newer TensorRTs
            parser = _parse_graph(network, request)  # it owns the weights until the engine is built
            config = _make_config(request)(builder, network)
            if monitor is not None:
                config.progress_monitor = monitor
            if settings.refit_individual:
                _mark_refittable(network, config, request.refittable_names)
            _load_timing_cache(config, features)
            serialized = bytes(EngineBytesFromNetwork((builder, network, parser), config=config)())
            _save_timing_cache(config, features)
    except PolygraphyException as error:
        if monitor is not None and monitor.stopped is not None:
            raise monitor.stopped from None
        if not get_logger().errors:
            get_logger().errors.append(str(error))
        raise make_engine_error("build the engine") from error
    return serialized


def _check_request(request: BuildRequest, features: Features) -> None:
    opset = max(entry.version for entry in request.model.opset_import if entry.domain in ("", "ai.onnx"))
    if features.max_opset is not None and opset > features.max_opset:
        raise EngineError(
            f"TensorRT {features.version} reads ONNX up to opset {features.max_opset}, and this graph has {opset}; "
            f"export with --opset {features.max_opset}."
        )
    if request.settings.strip and not features.strip:
        raise UsageError(f"TensorRT {features.version} cannot write a plan without its weights; build without --strip.")
    profile = request.settings.profile
    dims = request.model.graph.input[0].type.tensor_type.shape.dim
    for axis, dim in enumerate(dims):
        sizes = {shape[axis] for shape in (profile.smallest, profile.tuned, profile.largest)}
        if dim.HasField("dim_value") and sizes != {dim.dim_value}:
            raise UsageError(
                f"The graph has {dim.dim_value} as its {('batch', 'number of channels', 'height', 'width')[axis]}, "
                f"and the profile asks for {', '.join(map(str, sorted(sizes)))}."
            )


def _parse_graph(network: Any, request: BuildRequest) -> Any:
    parser = trt.OnnxParser(network, get_logger())
    if request.settings.native_instancenorm:
        parser.set_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)
    if not parser.parse(request.model.SerializeToString()):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        detail = f": {summarize_message(str(errors[0].desc()))}" if errors else ""
        raise EngineError(f"TensorRT {trt.__version__} cannot read the graph{detail}.")
    return parser


def _make_config(request: BuildRequest) -> CreateConfig:
    settings = request.settings
    shapes, profile = settings.profile, TensorRTProfile()
    profile.add(request.model.graph.input[0].name, min=shapes.smallest, opt=shapes.tuned, max=shapes.largest)
    more: dict[str, Any] = {}
    if settings.tactic_sources is not None:
        more["tactic_sources"] = [getattr(trt.TacticSource, name) for name in settings.tactic_sources]
    if settings.fp16:
        more["fp16"] = True
    if settings.strip:
        more["strip_plan"] = True
    return CreateConfig(
        profiles=[profile],
        refittable=settings.refit,
        tf32=settings.tf32,
        profiling_verbosity=getattr(trt.ProfilingVerbosity, settings.profiling_verbosity),
        **more,
    )


def _mark_refittable(network: Any, config: Any, names: Sequence[str]) -> None:
    config.set_flag(trt.BuilderFlag.REFIT_INDIVIDUAL)
    refused = [name for name in names if not network.mark_weights_refittable(name)]
    if refused:
        raise EngineError(
            f"TensorRT {trt.__version__} cannot make {len(refused)} of {len(names)} weights refittable, first "
            f"{escape_name(refused[0])!r}."
        )


@contextmanager
def _silence_polygraphy() -> Iterator[None]:
    """Keeps Polygraphy from printing to stdout, which is for results: errors come as exceptions."""
    before, polygraphy_util.TRT_LOGGER = polygraphy_util.TRT_LOGGER, get_logger()
    try:
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1):
            yield
    finally:
        polygraphy_util.TRT_LOGGER = before


def _timing_cache_path(features: Features) -> Path | None:
    """Returns where the timing cache of this TensorRT is kept, or None; each entry of it says which GPU it is for."""
    folder = cache_folder()
    return None if folder is None else folder / "tensorrt" / f"timing-{features.version}.cache"


def _load_timing_cache(config: Any, features: Features) -> None:
    """Loads the timing cache; not by Polygraphy, which makes a lock file beside it. A damaged or foreign one is not used."""
    path = _timing_cache_path(features)
    with suppress(OSError):
        cache = None if path is None else config.create_timing_cache(path.read_bytes())
        if cache is not None:
            config.set_timing_cache(cache, False)


def _save_timing_cache(config: Any, features: Features) -> None:
    """Keeps what was measured: the next build of a similar network takes a fraction of the time. A failure is no error."""
    path, cache = _timing_cache_path(features), config.get_timing_cache()
    if path is None or cache is None:
        return
    with suppress(OSError, DniError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(path, bytes(cache.serialize()), force=True)


def build_plan(
    bundle: Bundle,
    options: BuildOptions,
    progress: OptionalProgress = None,
    engine_class: type[TensorRTEngine[Any]] = RefitEngine,
) -> BuildResult:
    """Builds a bundle's plan for this GPU, verifies it and writes it; nothing is written where the verification fails.

    Args:
        bundle: The bundle.
        options: How to build.
        progress: Called with the phases of the build.
        engine_class: The engine that will open the plan, which says what kind of plan it is.

    Returns:
        What was built.

    Raises:
        UsageError: The plan exists and force is off, or the profile does not fit.
        EngineError: TensorRT cannot build the graph, or the engine computes something else than ONNX Runtime.
        UnavailableError: There is no such GPU.
        LimitError: There is no room.
    """
    started = time.perf_counter()
    features, network_class = detect_features(), engine_class.network_class
    precision, profile = options.precision, options.profile or Profile.from_shapes(bundle.signature)
    report_progress(progress, 0, 1, "lowering the graph")
    network = network_class.from_lowered(bundle, network_class.lower(bundle, features.graph_precision(precision)))
    identity = PlanIdentity.for_graph(
        bundle, network_class, network.lowered, features, precision, profile, options.strip, options.device
    )
    header = PlanHeader(identity, lowered=network.lowered.digest(), weights=network.weight_specs)
    path = plan_path(bundle, header)
    kept = os.path.lexists(path) and options.keep and not options.force
    if os.path.lexists(path) and not (options.force or kept):
        raise UsageError(f"{escape_name(path)} exists; give --force to build it again. Nothing was written.")
    names = network.weight_names if network.has_refittable_weights else ()
    request = BuildRequest(network.build_model(), identity.settings, names)
    device = Device.open(options.device)
    try:
        with device:
            plan = read_plan(path, identity) if kept else Plan(header, _build_clearing_frames(request, features, progress))
    finally:
        device.close()
    report_progress(progress, 0, 1, "comparing with ONNX Runtime")
    engine = engine_class(network, plan, EngineOptions(slots=1, device=options.device), features)
    try:
        reference = Reference(bundle, network.members, profile)
        if engine.blends:
            error = verify_members(engine, reference, precision)
        else:
            error = verify_at(engine, engine.verification_coefficients, reference, precision)
        expected = sample_output(reference.compute_reference(engine.verification_coefficients))
    finally:
        engine.close()
    plan = replace(plan, header=replace(header, sample=OutputSample.from_values(bundle, expected)))
    written = write_plan(bundle, plan, force=options.force or kept)
    log.info("%s %s in %.1f s", "verified" if kept else "built", written, time.perf_counter() - started)
    return BuildResult(written, engine.update_path, len(network.weight_names) if engine.blends else 0, error, kept)


def _build_clearing_frames(request: BuildRequest, features: Features, progress: OptionalProgress) -> bytes:
    """Builds; where that fails, nothing of TensorRT stays alive in the frames of the exception."""
    try:
        return build_serialized_engine(request, features, progress)
    except BaseException as error:
        drop_variables(error)
        raise
