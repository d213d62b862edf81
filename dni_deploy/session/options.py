"""The options of a session: which engine runs the network, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from dni_deploy.blending.group_rules import Rule
from dni_deploy.errors import UsageError, escape_name
from dni_deploy.network_controls import ControlValues
from engines import registry
from engines.interface import EngineOptions


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """How to open a bundle as a running network; everything that runs one takes these options.

    Attributes:
        engine: "auto" or an engine's name: "tensorrt", "tensorrt-rtx", "onnxruntime-gpu", "onnxruntime"; see `dni-deploy doctor`.
        precision: "fp32", "tf32" or "fp16", on a GPU; None: that of the newest plan, or fp32. On the CPU all is fp32.
        device: Number of the GPU, as the driver counts, from 0.
        threads: Threads per inference; 0 leaves the number to the engine.
        slots: Number of weight sets. With 2, the next alpha is blended while frames of the last one still run. None: the
            engine's own number, or 2 for `async_refit`.
        async_refit: Refit in a thread of its own, as soon as alpha is set: no frame waits for a refit, and a change shows at
            the first frame after its refit has ended. Without it the next frame that starts has the change, and waits for
            it. Needs 2 slots.
        cuda_graph: Replay frames as a CUDA graph where the engine can.
        extrapolate: Allow coefficients outside 0 to 1, as far as every BatchNorm variance stays positive.
        rules: For groups of weights that have an alpha of their own, such as ["norm:*=0.2", "body.*=0.2..0.8"].
        controls: Values of what the network takes beside the image, such as {"sigma": 0.1}; others have their defaults.

    Raises:
        UsageError: An unknown engine or precision, a number that is out of range, or rules that are one text.
    """

    engine: str = "auto"
    precision: str | None = None
    device: int = 0
    threads: int = 0
    slots: int | None = None
    async_refit: bool = False
    cuda_graph: bool = False
    extrapolate: bool = False
    rules: Sequence[str | Rule] = ()
    controls: ControlValues = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.engine != "auto":
            registry.check_engine_name(self.engine)
        if self.async_refit and self.slots == 1:
            raise UsageError("async_refit needs 2 slots: one for frames, one to refit meanwhile; got slots=1.")
        if isinstance(self.rules, str):
            raise UsageError(f"Rules are a list of them; got one text, {escape_name(repr(self.rules))}.")
        object.__setattr__(self, "rules", tuple(self.rules or ()))
        _ = self.engine_options  # validates the fields that the engine shares

    @property
    def engine_options(self) -> EngineOptions:
        """The options that the engine takes; with `async_refit` it gets 2 slots unless the caller chose a number."""
        values = {field.name: getattr(self, field.name) for field in fields(EngineOptions)}
        if self.async_refit and self.slots is None:
            values["slots"] = 2
        return EngineOptions(**values)
