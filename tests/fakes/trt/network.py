"""Network: builder, network definition, ONNX parser and builder configuration, up to the serialized plan."""

from __future__ import annotations

from typing import Any

import onnx

from tests.fakes import gpu as machine
from tests.fakes.trt import plan
from tests.fakes.trt.model import Model, NotParsed, parse
from tests.fakes.trt.record import since, until
from tests.fakes.trt.values import ONNX, dims, error, logger_of, trt

LAYERS = {"Conv": "CONVOLUTION", "ConvTranspose": "DECONVOLUTION", "PRelu": "PARAMETRIC_RELU", "Resize": "RESIZE"}
LAYERS |= {"InstanceNormalization": "NORMALIZATION", "Gemm": "MATRIX_MULTIPLY", "MatMul": "MATRIX_MULTIPLY", "Cast": "CAST"}
BUILD_STEPS = 3


def _state() -> Any:
    return machine.current().trt


class ITensor:
    def __init__(self, info: onnx.ValueInfoProto) -> None:
        kind = info.type.tensor_type
        self._name = info.name
        self._shape = tuple(size.dim_value if size.HasField("dim_value") else -1 for size in kind.shape.dim)
        self._dtype = trt().DataType[ONNX[kind.elem_type]]

    @property
    def name(self) -> str:
        return self._name

    @property
    def shape(self) -> Any:
        return dims(self._shape)

    @property
    def dtype(self) -> Any:
        return self._dtype

    @property
    def is_shape_tensor(self) -> bool:
        return False

    @property
    def is_execution_tensor(self) -> bool:
        return True

    @property
    def is_network_input(self) -> bool:
        return True


class ILayer:
    def __init__(self, node: onnx.NodeProto) -> None:
        self._node = node

    @property
    def name(self) -> str:
        return self._node.name

    @property
    def type(self) -> Any:
        return trt().LayerType[LAYERS.get(self._node.op_type, "ELEMENTWISE")]

    @property
    @until(10)
    def precision_is_set(self) -> bool:
        return False

    @property
    def num_inputs(self) -> int:
        return len(self._node.input)

    @property
    def num_outputs(self) -> int:
        return len(self._node.output)


class INetworkDefinition:
    def __init__(self, flags: int, logger: Any) -> None:
        self._flags, self._logger = flags, logger
        self._model: Model | None = None
        self._marked: set[str] = set()

    def _names(self) -> set[str]:
        return set() if self._model is None else set(self._model.weights)

    @property
    def name(self) -> str:
        return "" if self._model is None else self._model.proto.graph.name

    @property
    def num_inputs(self) -> int:
        return 0 if self._model is None else len(self._model.inputs())

    @property
    def num_outputs(self) -> int:
        return 0 if self._model is None else len(self._model.proto.graph.output)

    @property
    def num_layers(self) -> int:
        return 0 if self._model is None else len(self._model.proto.graph.node)

    @property
    @since(10)
    def flags(self) -> int:
        return self._flags

    @since(10)
    def get_flag(self, flag: Any) -> bool:
        return bool(self._flags >> int(flag) & 1)

    def get_input(self, index: int) -> Any:
        assert self._model is not None
        return trt().ITensor(self._model.inputs()[index])

    def get_output(self, index: int) -> Any:
        assert self._model is not None
        return trt().ITensor(self._model.proto.graph.output[index])

    def get_layer(self, index: int) -> Any:
        assert self._model is not None
        return trt().ILayer(self._model.proto.graph.node[index])

    def __len__(self) -> int:
        return self.num_layers

    def __getitem__(self, index: int) -> Any:
        return self.get_layer(index)

    @since(10)
    def mark_weights_refittable(self, name: str) -> bool:
        if name not in self._names():
            error(self._logger, f"markWeightsRefittable: there are no weights named {name}")
            return False
        self._marked.add(name)
        return True

    @since(10)
    def unmark_weights_refittable(self, name: str) -> bool:
        if name not in self._marked:
            return False
        self._marked.remove(name)
        return True

    @since(10)
    def are_weights_marked_refittable(self, name: str) -> bool:
        return name in self._marked


class ParserError:
    def __init__(self, sentence: str) -> None:
        self._sentence = sentence

    def code(self) -> int:
        return 2

    def desc(self) -> str:
        return self._sentence

    def node(self) -> int:
        return -1

    def __str__(self) -> str:
        return self._sentence


class OnnxParser:
    def __init__(self, network: Any, logger: Any) -> None:
        if not isinstance(network, trt().INetworkDefinition):
            raise TypeError("__init__(): incompatible constructor arguments")
        self._network, self._logger = network, logger_of(logger, "OnnxParser")
        self._errors: list[Any] = []
        self._flags = 0 if _state().version == "8.6" else 1

    def parse(self, model: bytes, path: str | None = None) -> bool:
        version = _state().version
        try:
            if version == "8.6" and not self._network._flags & 1:
                raise NotParsed("the network has an implicit batch dimension, which the parser does not support")
            self._network._model = parse(bytes(memoryview(model)), version, bool(self._flags & 1))
        except NotParsed as wrong:
            self._errors.append(trt().ParserError(str(wrong)))
            error(self._logger, str(wrong))
            return False
        return True

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def clear_errors(self) -> None:
        self._errors.clear()

    @property
    def flags(self) -> int:
        return self._flags

    @flags.setter
    def flags(self, value: int) -> None:
        self._flags = int(value)

    def set_flag(self, flag: Any) -> None:
        self._flags |= 1 << int(flag)

    def clear_flag(self, flag: Any) -> None:
        self._flags &= ~(1 << int(flag))

    def get_flag(self, flag: Any) -> bool:
        return bool(self._flags >> int(flag) & 1)


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, tuple[Any, Any, Any]] = {}
        self._valid = True

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        shapes = (dims(min), dims(opt), dims(max))
        ranks = {len(shape) for shape in shapes}
        self._valid &= len(ranks) == 1 and all(low <= middle <= high for low, middle, high in zip(*shapes, strict=False))
        self._shapes[input] = shapes

    def get_shape(self, input: str) -> list[Any]:
        return list(self._shapes.get(input, ()))

    def __bool__(self) -> bool:
        return self._valid


class ITimingCache:
    def __init__(self, data: bytes = b"") -> None:
        self._data = data

    def serialize(self) -> Any:
        return trt().IHostMemory(self._data)

    def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:
        self._data = self._data or input_cache._data
        return True

    def reset(self) -> bool:
        self._data = b""
        return True


class IBuilderConfig:
    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._flags = 1 << int(trt().BuilderFlag.TF32)
        self._profiles: list[Any] = []
        self._cache: Any = None
        self._sources = sum(1 << int(source) for source in trt().TacticSource)
        self._pools: dict[Any, int] = {}
        self._preview: set[Any] = set()
        self._monitor: Any = None
        self._level = 3
        self._verbosity = trt().ProfilingVerbosity.LAYER_NAMES_ONLY
        self._device = trt().DeviceType.GPU
        self._streams = -1

    def set_flag(self, flag: Any) -> None:
        self._check(flag, "BuilderFlag")
        self._flags |= 1 << int(flag)

    def clear_flag(self, flag: Any) -> None:
        self._check(flag, "BuilderFlag")
        self._flags &= ~(1 << int(flag))

    def get_flag(self, flag: Any) -> bool:
        self._check(flag, "BuilderFlag")
        return bool(self._flags >> int(flag) & 1)

    def _check(self, value: Any, enum: str) -> None:
        if not isinstance(value, getattr(trt(), enum)):
            raise TypeError(f"incompatible function arguments: {value!r} for a {enum}")

    def _has(self, name: str) -> bool:
        return name in trt().BuilderFlag.__members__ and self.get_flag(trt().BuilderFlag[name])

    @property
    def flags(self) -> int:
        return self._flags

    @flags.setter
    def flags(self, value: int) -> None:
        self._flags = int(value)

    def add_optimization_profile(self, profile: Any) -> int:
        if not profile:
            error(self._logger, "the optimization profile is not valid")
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        data = bytes(memoryview(serialized_timing_cache))
        if data and not data.startswith(plan.TIMINGS):
            error(self._logger, "the timing cache is of another version or damaged")
            return None
        return trt().ITimingCache(data)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        self._cache = cache
        return cache is not None

    def get_timing_cache(self) -> Any:
        return self._cache

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._check(pool, "MemoryPoolType")
        self._pools[pool] = int(pool_size)

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self._pools.get(pool, machine.current().memory.total)

    def set_tactic_sources(self, tactic_sources: int) -> bool:
        self._sources = int(tactic_sources)
        return True

    def get_tactic_sources(self) -> int:
        return self._sources

    def set_preview_feature(self, feature: Any, enable: bool) -> None:
        self._check(feature, "PreviewFeature")
        (self._preview.add if enable else self._preview.discard)(feature)

    def get_preview_feature(self, feature: Any) -> bool:
        return feature in self._preview

    @property
    @since(10)
    def progress_monitor(self) -> Any:
        return self._monitor

    @progress_monitor.setter
    def progress_monitor(self, value: Any) -> None:
        if value is not None and not (isinstance(value, trt().IProgressMonitor) and getattr(value, "_ready", False)):
            raise TypeError("tensorrt.IProgressMonitor.__init__() must be called when overriding __init__")
        self._monitor = value

    @property
    def builder_optimization_level(self) -> int:
        return self._level

    @builder_optimization_level.setter
    def builder_optimization_level(self, value: int) -> None:
        self._level = value

    @property
    def profiling_verbosity(self) -> Any:
        return self._verbosity

    @profiling_verbosity.setter
    def profiling_verbosity(self, value: Any) -> None:
        self._verbosity = value

    @property
    def max_aux_streams(self) -> int:
        return self._streams

    @max_aux_streams.setter
    def max_aux_streams(self, value: int) -> None:
        self._streams = value

    @property
    def default_device_type(self) -> Any:
        return self._device

    @property
    def DLA_core(self) -> int:
        return -1

    @property
    def engine_capability(self) -> Any:
        return trt().EngineCapability.STANDARD

    @property
    @until(10)
    def int8_calibrator(self) -> Any:
        return None


class Builder:
    def __init__(self, logger: Any) -> None:
        self._logger = logger_of(logger, "Builder")
        _state().needs_context("Builder")

    @property
    def logger(self) -> Any:
        return self._logger

    def create_network(self, flags: int = 0) -> Any:
        return trt().INetworkDefinition(int(flags), self._logger)

    def create_builder_config(self) -> Any:
        return trt().IBuilderConfig(self._logger)

    def create_optimization_profile(self) -> Any:
        return trt().IOptimizationProfile()

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        """None where it fails, with a sentence in the log."""
        state = _state()
        state.builds += 1
        if not state.needs_context("build_serialized_network"):
            return None
        wrong = self._obstacle(network, config)
        if wrong is not None:
            error(self._logger, wrong)
            return None
        if not self._tell(config._monitor):
            error(self._logger, "the build was cancelled")
            return None
        if config._cache is not None:
            config._cache._data = plan.TIMINGS + b" measured"
        model = network._model
        if config._has("REFIT") or config._has("REFIT_IDENTICAL"):
            refittable = list(model.weights)
        elif config._has("REFIT_INDIVIDUAL"):
            refittable = [name for name in model.weights if name in network._marked]
        else:
            refittable = []
        profiles = [profile._shapes for profile in config._profiles]
        return trt().IHostMemory(plan.write(model, refittable, profiles, config._has("STRIP_PLAN")))

    def _obstacle(self, network: Any, config: Any) -> str | None:
        if network._model is None:
            return "the network has no output"
        if config._has("REFIT_INDIVIDUAL") and (config._has("REFIT") or config._has("REFIT_IDENTICAL")):
            return "REFIT_INDIVIDUAL cannot be combined with REFIT or REFIT_IDENTICAL"
        refits = config._has("REFIT") or config._has("REFIT_IDENTICAL") or config._has("REFIT_INDIVIDUAL")
        if config._has("STRIP_PLAN") and not refits:
            return "STRIP_PLAN without REFIT or REFIT_IDENTICAL"
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            for profile in config._profiles:
                shapes = profile._shapes.get(tensor.name)
                if shapes is not None and any(
                    len(shape) != len(tensor.shape)
                    or any(fixed not in (-1, size) for fixed, size in zip(tensor.shape, shape, strict=True))
                    for shape in shapes
                ):
                    return f"the profile's shapes do not fit the input {tensor.name}"
            if -1 in tensor.shape and not any(tensor.name in profile._shapes for profile in config._profiles):
                return f"the dynamic input {tensor.name} has no optimization profile"
        return None

    def _tell(self, monitor: Any) -> bool:
        if monitor is None:
            return True
        monitor.phase_start("Building Engine", None, BUILD_STEPS)
        steps = [monitor.step_complete("Building Engine", step) for step in range(BUILD_STEPS)]
        monitor.phase_finish("Building Engine")
        return all(steps)
