"""Builds a serialized plan from a network and its configuration, or returns None with a sentence in the log."""

from __future__ import annotations

from typing import Any

from tests.fakes import gpu as machine
from tests.fakes.trt import plan
from tests.fakes.trt.values import error, logger_of, trt

BUILD_STEPS = 3


class Builder:
    def __init__(self, logger: Any) -> None:
        self._logger = logger_of(logger, "Builder")
        machine.current().trt.needs_context("Builder")

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
        """Returns None on failure, with a sentence in the log."""
        state = machine.current().trt
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
        capabilities = [(int(one) // 10, int(one) % 10) for one in config._capabilities if one.name not in ("NONE", "CURRENT")]
        return trt().IHostMemory(plan.write(model, refittable, profiles, config._has("STRIP_PLAN"), capabilities))

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
