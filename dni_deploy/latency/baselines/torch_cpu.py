"""Baselines in PyTorch on the CPU: the state dicts are blended and loaded into the module, as the paper's code does it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError, MismatchError, escape_name
from dni_deploy.network_controls import drop_control_tensors
from engines.frame_conversion import HostFrameEngine
from engines.interface import EngineOptions
from exporters.architectures.registry import find_architecture


class TorchEager(HostFrameEngine):
    """An Engine (see engines/interface.py) of one slot, for bundles of an architecture that is known here.

    Thread safety: refit and infer come from one thread.
    """

    name = "torch"
    update_path = "the state dicts are blended and loaded into the module"
    slots = 1
    memory_format = torch.contiguous_format
    """Order of the axes in memory of the weights and of what the layers compute; the output is always contiguous."""

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        """Builds the module.

        Raises:
            MismatchError: The architecture does not have the bundle's weights.
        """
        super().__init__()
        if options.threads:
            torch.set_num_threads(options.threads)
        tensors = [bundle.read_tensors(member) for member in bundle.members]
        controls = bundle.signature.controls
        own = drop_control_tensors(tensors[0], controls)
        net = find_architecture(bundle.architecture, own).build(own, controls)
        self._net: nn.Module = net.eval().to(memory_format=self.memory_format)  # type: ignore[call-overload]
        names = set(self._net.state_dict())
        if not names.issuperset(bundle.weight_names):
            raise MismatchError(f"The architecture {bundle.architecture!r} does not have the bundle's weights.")
        self._states: list[dict[str, Any]] = [
            {name: self._make_tensor(member[name]) for name in bundle.weight_names} for member in tensors
        ]

    def _make_tensor(self, values: NDArray[Any]) -> torch.Tensor:
        """Copies a weight into a float32 tensor in the module's order of axes, so that loading a blend is a plain copy."""
        tensor = torch.from_numpy(np.array(values, np.float32))
        return tensor.contiguous(memory_format=self.memory_format) if tensor.ndim == 4 else tensor

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        """Blends and loads; see `Engine.refit`, for one alpha over all weights."""
        blended = {
            name: sum(float(share) * state[name] for share, state in zip(coefficients, self._states, strict=True))
            for name in self._states[0]
        }
        self._net.load_state_dict(blended, strict=False)

    def synchronize(self, slot: int) -> None:
        """Does nothing: a refit has ended when it returns."""

    def infer(self, slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Runs one frame; see `Engine.infer`."""
        try:
            with torch.inference_mode():
                y = self._net(torch.from_numpy(x).to(memory_format=self.memory_format))
                result: NDArray[np.float32] = y.contiguous().numpy()
        except RuntimeError as error:
            reason = escape_name(str(error).partition("\n")[0].rstrip("."))
            raise EngineError(f"PyTorch could not run an input of shape {x.shape}: {reason}.") from error
        return result

    def close(self) -> None:
        """Drops the state dicts."""
        self._states.clear()


class TorchChannelsLast(TorchEager):
    """The same module with its weights and frames in channels-last order, the order that PyTorch's convolutions prefer."""

    name = "torch-channels-last"
    memory_format = torch.channels_last


class TorchCompiled(TorchChannelsLast):
    """The module compiled by torch.compile for the shape of a frame, at its first frame; its code reads the loaded weights.

    Compiling fails with EngineError, as without a C++ compiler.
    """

    name = "torch-compile"

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        """Builds the module; errors are those of TorchEager."""
        super().__init__(bundle, options)
        self._net.compile(dynamic=False, fullgraph=True)  # or parts that do not compile would run eagerly, without a word
