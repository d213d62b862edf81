"""Optimization profiles, timing cache, and all other settings of a build."""

from __future__ import annotations

from typing import Any

from tests.fakes import gpu as machine
from tests.fakes.trt import plan
from tests.fakes.trt.record import RTX, since, until
from tests.fakes.trt.values import dims, error, trt


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
        self._capabilities: list[Any] = []

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
    @since(RTX)
    def num_compute_capabilities(self) -> int:
        return len(self._capabilities)

    @num_compute_capabilities.setter
    def num_compute_capabilities(self, value: int) -> None:
        self._capabilities = [trt().ComputeCapability.NONE] * value

    @since(RTX)
    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        self._check(compute_capability, "ComputeCapability")
        if index >= len(self._capabilities):
            return False
        self._capabilities[index] = compute_capability
        return True

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
