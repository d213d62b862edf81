"""Builds an engine from a graph, through Polygraphy; needs the library, and no CUDA package."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from polygraphy import config as polygraphy_config
from polygraphy.exception import PolygraphyException
from polygraphy.logger import G_LOGGER

from dni_deploy.errors import DniError, EngineError, UsageError, escape_name
from dni_deploy.utils.atomic_write import write_bytes_atomically
from dni_deploy.utils.hardware import cache_folder
from dni_deploy.utils.progress import OptionalProgress, report_progress
from engines.trt.library import Library
from engines.trt.messages import summarize_message
from engines.trt.plan_identity import BuildSettings, Capability


def make_progress_monitor(trt: Any, progress: OptionalProgress) -> Any:
    """Makes a trt.IProgressMonitor of a library's module that reports to `progress`, for libraries that have it.

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
        capabilities: Compute capabilities to build for, where the library builds for several; empty for this machine's GPU.
    """

    model: onnx.ModelProto
    settings: BuildSettings
    refittable_names: tuple[str, ...] = ()
    capabilities: tuple[Capability, ...] = ()


def build_serialized_engine(request: BuildRequest, library: Library, progress: OptionalProgress = None) -> bytes:
    """Builds an engine; the caller holds the device.

    Args:
        request: What to build.
        library: The library that builds.
        progress: Called with the phases.

    Returns:
        The engine as the library serializes it.

    Raises:
        UsageError: The profile does not fit the graph, or the library cannot strip.
        EngineError: The library cannot read or build the graph.
    """
    _check_request(request, library)
    settings, trt = request.settings, library.trt
    backend = _import_polygraphy(library)
    monitor = make_progress_monitor(trt, progress) if library.features.progress else None
    library.clear_errors()
    try:
        with _silence_polygraphy(library, backend):
            kind = {"explicit_batch": settings.explicit_batch, "strongly_typed": settings.strongly_typed}
            builder, network = backend.CreateNetwork(**kind)()  # every flag: older Polygraphys do not know newer TensorRTs
            parser = _parse_graph(network, request, library)  # it owns the weights until the engine is built
            config = _make_config(request, library, backend)(builder, network)
            if monitor is not None:
                config.progress_monitor = monitor
            if request.capabilities:
                _set_capabilities(config, request.capabilities, trt)
            if settings.refit_individual:
                _mark_refittable(network, config, request.refittable_names, library)
            _load_timing_cache(config, library)
            serialized = bytes(backend.EngineBytesFromNetwork((builder, network, parser), config=config)())
            _save_timing_cache(config, library)
    except PolygraphyException as error:
        if monitor is not None and monitor.stopped is not None:
            raise monitor.stopped from None
        if not library.logger.errors:
            library.logger.errors.append(str(error))
        raise library.make_error("build the engine") from error
    return serialized


def _import_polygraphy(library: Library) -> Any:
    """Imports Polygraphy's backend for a library; it works with one library per process.

    Raises:
        EngineError: It was imported for the other one.
    """
    uses_rtx = library.name == "tensorrt-rtx"
    if "polygraphy.backend.trt" not in sys.modules:
        polygraphy_config.USE_TENSORRT_RTX = uses_rtx  # POLYGRAPHY_USE_TENSORRT_RTX, for this process
    elif bool(getattr(polygraphy_config, "USE_TENSORRT_RTX", False)) != uses_rtx:
        raise EngineError(f"This process has built for another TensorRT library; build for {library.name} in a new one.")
    return importlib.import_module("polygraphy.backend.trt")


def _check_request(request: BuildRequest, library: Library) -> None:
    features = library.features
    opset = max(entry.version for entry in request.model.opset_import if entry.domain in ("", "ai.onnx"))
    if features.max_opset is not None and opset > features.max_opset:
        raise EngineError(
            f"{library.title} reads ONNX up to opset {features.max_opset}, and this graph has {opset}; "
            f"export with --opset {features.max_opset}."
        )
    if request.settings.strip and not features.strip:
        raise UsageError(f"{library.title} cannot write a plan without its weights; build without --strip.")
    profile = request.settings.profile
    dims = request.model.graph.input[0].type.tensor_type.shape.dim
    for axis, dim in enumerate(dims):
        sizes = {shape[axis] for shape in (profile.smallest, profile.tuned, profile.largest)}
        if dim.HasField("dim_value") and sizes != {dim.dim_value}:
            raise UsageError(
                f"The graph has {dim.dim_value} as its {('batch', 'number of channels', 'height', 'width')[axis]}, "
                f"and the profile asks for {', '.join(map(str, sorted(sizes)))}."
            )


def _parse_graph(network: Any, request: BuildRequest, library: Library) -> Any:
    trt = library.trt
    parser = trt.OnnxParser(network, library.logger)
    if request.settings.native_instancenorm:
        parser.set_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)
    if not parser.parse(request.model.SerializeToString()):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        detail = f": {summarize_message(str(errors[0].desc()))}" if errors else ""
        raise EngineError(f"{library.title} cannot read the graph{detail}.")
    return parser


def _make_config(request: BuildRequest, library: Library, backend: Any) -> Any:
    settings, trt = request.settings, library.trt
    shapes, profile = settings.profile, backend.Profile()
    profile.add(request.model.graph.input[0].name, min=shapes.smallest, opt=shapes.tuned, max=shapes.largest)
    more: dict[str, Any] = {}
    if settings.tactic_sources is not None:
        more["tactic_sources"] = [getattr(trt.TacticSource, name) for name in settings.tactic_sources]
    if settings.fp16:
        more["fp16"] = True
    if settings.strip:
        more["strip_plan"] = True
    if settings.preview_features:
        more["preview_features"] = [getattr(trt.PreviewFeature, name) for name in settings.preview_features]
    return backend.CreateConfig(
        profiles=[profile],
        refittable=settings.refit,
        tf32=settings.tf32,
        profiling_verbosity=getattr(trt.ProfilingVerbosity, settings.profiling_verbosity),
        **more,
    )


def _set_capabilities(config: Any, capabilities: Sequence[Capability], trt: Any) -> None:
    """Says which GPUs to build for; for one that the library does not name, it says itself whether it builds for this GPU."""
    named = [getattr(trt.ComputeCapability, capability_name(one), None) for one in capabilities]
    chosen = [trt.ComputeCapability.CURRENT] if None in named else named
    config.num_compute_capabilities = len(chosen)
    for index, one in enumerate(chosen):
        config.set_compute_capability(one, index)


def _mark_refittable(network: Any, config: Any, names: Sequence[str], library: Library) -> None:
    config.set_flag(library.trt.BuilderFlag.REFIT_INDIVIDUAL)
    refused = [name for name in names if not network.mark_weights_refittable(name)]
    if refused:
        raise EngineError(
            f"{library.title} cannot make {len(refused)} of {len(names)} weights refittable, first {escape_name(refused[0])!r}."
        )


@contextmanager
def _silence_polygraphy(library: Library, backend: Any) -> Iterator[None]:
    """Keeps Polygraphy from printing to stdout, which is for results: errors come as exceptions."""
    before, backend.util.TRT_LOGGER = backend.util.TRT_LOGGER, library.logger
    try:
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1):
            yield
    finally:
        backend.util.TRT_LOGGER = before


def _timing_cache_path(library: Library) -> Path | None:
    """Returns where the timing cache of a library is kept, or None; each entry of it says which GPU it is for."""
    folder = cache_folder()
    return None if folder is None else folder / library.name / f"timing-{library.features.version}.cache"


def _load_timing_cache(config: Any, library: Library) -> None:
    """Loads the timing cache; not by Polygraphy, which makes a lock file beside it. A damaged or foreign one is not used."""
    path = _timing_cache_path(library)
    with suppress(OSError):
        cache = None if path is None else config.create_timing_cache(path.read_bytes())
        if cache is not None:
            config.set_timing_cache(cache, False)


def _save_timing_cache(config: Any, library: Library) -> None:
    """Keeps what was measured: the next build of a similar network takes a fraction of the time. A failure is no error."""
    path, cache = _timing_cache_path(library), config.get_timing_cache()
    if path is None or cache is None:
        return
    with suppress(OSError, DniError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(path, bytes(cache.serialize()), force=True)


def capability_name(capability: Capability) -> str:
    """Returns the name of a compute capability in the library's enum."""
    return "SM{}{}".format(*capability)
