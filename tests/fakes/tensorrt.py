"""A fake TensorRT with the classes, enums and rules of 8.6, 10.16, 11.4 or TensorRT for RTX 1.7, whose engines run on the CPU.

Incorrect use gives the same result as in TensorRT (False, None, a TypeError, a sentence in the log); what TensorRT leaves
undefined is reported to the fake GPU. Every call is recorded, to be checked against the real bindings (tests/fakes/trt/record.py).
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any

from tests.fakes.trt import builder, config, context, engine, enums, network, parser, record, refitter, values

VERSIONS = {"8.6": "8.6.1", "10.16": "10.16.1.11", "11.4": "11.4.0.106", "rtx-1.7": "1.7.1.116"}
CLASSES = (
    values.ILogger,
    values.Logger,
    values.IProgressMonitor,
    values.Dims,
    values.IHostMemory,
    values.Weights,
    network.ITensor,
    network.ILayer,
    network.INetworkDefinition,
    parser.ParserError,
    parser.OnnxParser,
    config.IOptimizationProfile,
    config.ITimingCache,
    config.IBuilderConfig,
    builder.Builder,
    engine.Runtime,
    engine.IRuntimeCache,
    engine.IRuntimeConfig,
    engine.ICudaEngine,
    context.IExecutionContext,
    refitter.Refitter,
)
FROM_10 = ("IProgressMonitor",)
"""Classes that 8.6 lacks."""

OF_RTX = ("IRuntimeCache", "IRuntimeConfig")
"""Classes that the fake has for TensorRT for RTX alone."""

TYPES = {"float32": "FLOAT", "float16": "HALF", "int32": "INT32", "int64": "INT64", "int8": "INT8", "bool": "BOOL"}


class State:
    """Switches for tests, and counts.

    graphs_see_refits   whether a captured graph uses the weights of the latest refit, or those at the capture.
    evaluator           a function (inputs, weights) -> outputs by name, to be used instead of ONNX Runtime, with `shapes`.
    compiled            what contexts of TensorRT for RTX compiled, and did not find in a runtime cache.
    fail                {"set": k} or {"execute": k}: the k-th next such call fails, counting from 0; {"refit": k}: the next refit
                        stops after k weights and answers False.
    """

    def __init__(self, gpu: Any, version: str) -> None:
        self.gpu, self.version = gpu, version
        self.graphs_see_refits = True
        self.evaluator: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]] | None = None
        self.shapes: Callable[[dict[str, tuple[int, ...]]], dict[str, tuple[int, ...]]] | None = None
        self.fail: dict[str, int] = {}
        self.builds = self.contexts = self.executions = 0
        self.compiled: set[str] = set()
        self._alive: list[tuple[str, weakref.ref[Any]]] = []

    def alive(self, kind: str, instance: Any) -> None:
        self._alive.append((kind, weakref.ref(instance)))

    def leaks(self) -> list[str]:
        """Returns TensorRT objects that were not released."""
        left = Counter(kind for kind, instance in self._alive if instance() is not None)
        return [f"{count} {kind} were never released" for kind, count in left.items()]

    def needs_context(self, call: str) -> bool:
        if self.gpu.has_context():
            self.gpu.scheduler.tick()
            return True
        self.gpu.report(f"{call} without a current CUDA context on this thread")
        return False

    def take(self, call: str) -> bool:
        """Tells whether this call must fail."""
        left = self.fail.get(call)
        if left is None:
            return False
        if left == 0:
            del self.fail[call]
            return True
        self.fail[call] = left - 1
        return False

    def take_refit(self) -> int | None:
        return self.fail.pop("refit", None)

    def evaluator_of(self, held: Any) -> Any:
        return _Given(self.evaluator, self.shapes) if self.evaluator is not None else held.evaluator

    def launched(self, queue: Any, work: Any) -> None:
        """Checks the launch of a captured execution by the rules of a plain one."""
        context = work.context()
        if context is None:
            self.gpu.report("a CUDA graph is launched and the execution context in it was destroyed")
        else:
            context._look(queue)


class _Given:
    def __init__(self, run: Any, shapes: Any) -> None:
        self.run, self.shapes = run, shapes


_built: dict[str, dict[str, Any]] = {}
_shared: dict[type, type] = {}


def fill(module: ModuleType, version: str, gpu: Any) -> State:
    """Fills the fake module with the names of this version, and removes those of the previous one."""
    if version not in _built:
        _built[version] = _content(version)
    for name in [name for name in vars(module) if not name.startswith("__")]:
        delattr(module, name)
    module.__version__ = VERSIONS[version]  # type: ignore[attr-defined]
    vars(module).update(_built[version])
    record.Recording.version = version
    return State(gpu, version)


def _content(version: str) -> dict[str, Any]:
    content: dict[str, Any] = {"nptype": values.nptype, "volume": values.volume}
    for name in enums.TABLE:
        members = enums.members(name, version)
        if members is not None:
            content[name] = values.Enum(name, members, module="tensorrt")  # type: ignore[call-arg]
            content[name]._fake = True
    severity = content.pop("Severity")
    for name, kind in TYPES.items():
        if kind in content["DataType"].__members__:
            content[name] = content["DataType"][kind]
    built: dict[type, type] = {}
    for cls in CLASSES:
        if (version == "8.6" and cls.__name__ in FROM_10) or (version != "rtx-1.7" and cls.__name__ in OF_RTX):
            continue
        if cls in (values.ILogger, values.IProgressMonitor):  # users inherit from them once, and change versions later
            if cls not in _shared:
                _shared[cls] = record.version_of(cls, version, built)
            instance = _shared[cls]
        else:
            instance = record.version_of(cls, version, built)
        built[cls] = content[cls.__name__] = instance
    content["ILogger"].Severity = getattr(content["ILogger"], "Severity", severity)
    content["Logger"].Severity = content["ILogger"].Severity
    for member in content["ILogger"].Severity:
        setattr(content["Logger"], member.name, member)
    content["init_libnvinfer_plugins"] = lambda logger, namespace: True
    return content
