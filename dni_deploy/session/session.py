"""A network that is running, and its alpha.

with dni.open_session("sr.dni", alpha=0.35) as session:
    out = session(frame)
    session.alpha = {"psnr": 0.2, "gan": 0.8}  # from any thread; the next frame has it
    out = session(frame, alpha=0.7)  # this frame has it, whoever else uses the session, and no other one
    session.rules = ["norm:*=0.2"]  # groups of weights with an alpha of their own, whatever that of the others is
    session.controls = {"sigma": 25 / 255}  # what the network takes beside the image
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from dni_deploy.alpha.coefficients import Alpha, Coefficients
from dni_deploy.blending.calibration_table import EXTRAPOLATION_UNSUPPORTED_MESSAGE, GROUPS_UNSUPPORTED_MESSAGE
from dni_deploy.blending.control_settings import NO_CONTROLS, ControlSettings
from dni_deploy.blending.group_rules import AlphaRules, Rules
from dni_deploy.blending.variance_guard import VarianceGuard, list_variance_names
from dni_deploy.blending.weight_groups import WeightGroups
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import CoefficientsError, DniError, EngineError, UsageError
from dni_deploy.imaging.frames import AnyFrame, check_frame, check_signature, to_pixels
from dni_deploy.imaging.rendered import RenderedFrame, RenderedPixels
from dni_deploy.imaging.transparent_frame import join_transparency, split_transparency
from dni_deploy.network_controls import ControlValues
from dni_deploy.session.options import SessionOptions
from dni_deploy.session.ring import FrameRing
from dni_deploy.session.swap import AsyncRefit, CurrentWeights, SyncRefit
from dni_deploy.signature import Signature
from dni_deploy.utils.hardware import cpu_name
from engines.cuda.driver import Driver, query_driver
from engines.frame_conversion import to_network
from engines.interface import Engine
from engines.registry import open_engine

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RenderState:
    """What a set of weights is blended with.

    Attributes:
        coefficients: The alpha that moves.
        rules: For groups of weights that have an alpha of their own; None without.
        controls: Values of the network's controls.
    """

    coefficients: Coefficients
    rules: AlphaRules | None = None
    controls: ControlSettings = NO_CONTROLS

    def expand_coefficients(self) -> NDArray[np.float64]:
        """Returns the coefficients as `Engine.refit` takes them: float64 (N,), or (W, N) by rules or controls."""
        base = self.coefficients.to_array()
        rows = base if self.rules is None else self.rules.compute_coefficients(base)
        return self.controls.apply(rows)


class Session:
    """Takes frames and gives frames, each rendered with exactly one alpha.

    Attributes:
        engine: Owned by the session, which closes it.
        engine_reason: Why this engine was chosen.
        members: Of the family, in its order.
        signature: Of the network.
        change_seconds: Time of the newest change of alpha in the engine, blend and refit together; on a GPU and without
            `async_refit`, the time to enqueue them.

    Thread safety: any thread may call any method but `close`. KeyboardInterrupt that the caller catches leaves a session that
    works. A session belongs to its process: it cannot be pickled, and in a process that was forked every method but `close`
    raises EngineError, since its threads are not there.
    """

    __slots__ = (
        "__weakref__", "_closed", "_finalizer", "_load_groups", "_refitter", "_ring", "_state_lock", "_variance_guard",
        "_weight_groups", "change_seconds", "engine", "engine_reason", "members", "signature",
    )  # fmt: skip
    # Slots, so that `session.alfa = 0.3` is an error and not a slider that does nothing.

    def __init__(
        self,
        engine: Engine,
        members: tuple[str, ...],
        signature: Signature,
        initial: Coefficients,
        *,
        variance_guard: VarianceGuard | None = None,
        async_refit: bool = False,
        engine_reason: str = "",
        load_groups: Callable[[], WeightGroups] | None = None,
        rules: Rules | None = None,
        controls: ControlSettings = NO_CONTROLS,
    ) -> None:
        """Refits the engine with the first alpha; `open_session` makes all arguments.

        Args:
            engine: The session owns it from here on.
            members: Of the family, in its order.
            signature: Of the network.
            initial: The first alpha.
            variance_guard: Passed where extrapolation is allowed; it refuses what would make a BatchNorm variance negative.
            async_refit: As in `SessionOptions`.
            engine_reason: Why this engine was chosen.
            load_groups: Returns the bundle's weights by name, role and depth; called once, when there are rules.
            rules: As in `SessionOptions`.
            controls: The first values of the network's controls.

        Raises:
            UsageError: A rule is none, or selects nothing.
            CoefficientsError: The alpha or a rule does not suit the family.
            EngineError: The first refit failed.
        """
        self.engine = engine
        self.engine_reason = engine_reason
        self.members = members
        self.signature = signature
        self._variance_guard = variance_guard
        self._load_groups = load_groups
        self._weight_groups: WeightGroups | None = None
        self._closed = False
        self.change_seconds = 0.0
        self._state_lock = threading.RLock()  # alpha, rules and controls are set one by one and applied together
        start = self._validate_state(RenderState(initial, self._parse_rules(rules), controls))
        self._refitter: SyncRefit[RenderState] | AsyncRefit[RenderState]
        if async_refit:
            self._refitter = AsyncRefit(engine.slots, self._refit_and_synchronize, start)
        else:
            self._refitter = SyncRefit(engine.slots, self._refit, start)
        self._ring = FrameRing(self._refitter)
        # A GPU's objects have to be freed in order where a session is not closed or still open when the program ends, too.
        self._finalizer = weakref.finalize(self, _close_in_process, engine, os.getpid())

    def describe_machine(self, device: int = 0) -> str:
        """Names what the engine runs on: outputs are the same to the last bit only on machines of one kind.

        Args:
            device: Number of the GPU that the session was opened with.
        """
        answer = None if self.engine.name == "onnxruntime" else query_driver()
        if isinstance(answer, Driver) and device < len(answer.devices):
            return answer.devices[device][0]
        return cpu_name()

    @property
    def plan_digest(self) -> str:
        """SHA-256 of the plan that the engine was opened from, in hex; "" for an engine whose plan changes no result."""
        return getattr(self.engine, "plan_digest", "")

    @property
    def alpha(self) -> Coefficients:
        """The newest coefficients that were set, of all weights that no rule governs.

        Assigning validates at once; the blend happens when the next frame begins (with `async_refit`: now, beside the frames),
        and the last assignment counts. It raises CoefficientsError, and EngineError where the session is closed; the coefficients
        then stay as they were. A signal's handler may assign, too.
        """
        return self._refitter.requested_value.coefficients

    @alpha.setter
    def alpha(self, alpha: Alpha) -> None:
        self._change_state(lambda state: replace(state, coefficients=self._parse_alpha(alpha)))

    @property
    def rules(self) -> AlphaRules | None:
        """The rules for groups of weights that are in force, or None.

        Assigning validates at once, and the rules are in force from the next frame on, as an alpha is; None or an empty list
        removes them. It raises UsageError or CoefficientsError; the rules then stay as they were.
        """
        return self._refitter.requested_value.rules

    @rules.setter
    def rules(self, rules: Rules | None) -> None:
        parsed = self._parse_rules(rules)
        self._change_state(lambda state: replace(state, rules=parsed))

    @property
    def controls(self) -> dict[str, float]:
        """The newest values of the network's controls, by name; empty where it has none.

        Assigning some of them leaves the others as they are. It validates at once, and the values are in force from the next
        frame on, as an alpha is. It raises UsageError; the controls then stay as they were.
        """
        return self._refitter.requested_value.controls.to_dict()

    @controls.setter
    def controls(self, values: ControlValues) -> None:
        if values:  # none: for every frame of a network without controls
            self._change_state(lambda state: replace(state, controls=state.controls.change(values)))

    def _change_state(self, change: Callable[[RenderState], RenderState]) -> None:
        self._check_open()
        with self._state_lock:
            while True:
                before = self._refitter.requested_value
                state = self._validate_state(change(before))
                is_new = state != before
                if self._refitter.requested_value is before:  # else a signal's handler has changed it meanwhile
                    break
            if is_new:
                self._refitter.request(state)

    @property
    def generation(self) -> int:
        """How many changes of the weights have been applied so far."""
        return self._refitter.generation

    def _refit(self, slot: int, state: RenderState) -> None:
        started = time.perf_counter()
        self.engine.refit(slot, state.expand_coefficients())
        self._finish_change(started, state)

    def _refit_and_synchronize(self, slot: int, state: RenderState) -> None:
        """In the thread of AsyncRefit: a frame on the slot must wait for nothing."""
        started = time.perf_counter()
        self.engine.refit(slot, state.expand_coefficients())
        self.engine.synchronize(slot)
        self._finish_change(started, state)

    def _finish_change(self, started: float, state: RenderState) -> None:
        self.change_seconds = time.perf_counter() - started
        log.debug("alpha %s applied in %.2f ms", state.coefficients, self.change_seconds * 1e3)

    def wait_until_applied(self, timeout: float | None = None) -> bool:
        """Blends and refits the newest alpha now, so that the next frame has it and waits for nothing.

        Not needed for normal rendering.

        Args:
            timeout: Seconds to wait for the thread of `async_refit`; without it the work is done here, and the timeout has no
                effect.

        Returns:
            Whether the alpha was applied in time.

        Raises:
            EngineError: The refit failed, or the session is closed.
        """
        self._check_open()
        if isinstance(self._refitter, AsyncRefit) and not self._refitter.wait_until_applied(timeout):
            return False
        self._refitter.use(lambda weights: self.engine.synchronize(weights.slot))
        return True

    def parse_alpha(self, alpha: Alpha) -> Coefficients:
        """Parses an alpha as this session would take it, without setting it.

        Raises:
            CoefficientsError: It is no alpha for this family.
        """
        state = replace(self._refitter.requested_value, coefficients=self._parse_alpha(alpha))
        return self._validate_state(state).coefficients

    def _parse_alpha(self, alpha: Alpha) -> Coefficients:
        return Coefficients.parse(alpha, self.members, extrapolate=self._variance_guard is not None)

    def _parse_state(self, alpha: Alpha | None, controls: ControlValues | None) -> RenderState:
        """The newest state with another alpha, other controls, or both."""
        state = self._refitter.requested_value
        if alpha is not None:
            state = replace(state, coefficients=self._parse_alpha(alpha))
        if controls:
            state = replace(state, controls=state.controls.change(controls))
        return self._validate_state(state)

    def _validate_state(self, state: RenderState) -> RenderState:
        guard, rules = self._variance_guard, state.rules
        if guard is not None and rules is None:
            guard.check(state.coefficients)
        elif guard is not None and rules is not None:
            rows = dict(zip(rules.groups.names, state.expand_coefficients(), strict=True))
            guard.check_per_tensor(rows, state.coefficients)
        return state

    def _parse_rules(self, rules: Rules | None) -> AlphaRules | None:
        if rules is None or isinstance(rules, AlphaRules):
            return rules
        if not len(rules):
            return None
        if self._weight_groups is None:
            if self._load_groups is None:
                raise UsageError("This session does not know its weights by name, so that it takes no rules.")
            self._weight_groups = self._load_groups()
        return AlphaRules.parse(rules, self._weight_groups, self.members, extrapolate=self._variance_guard is not None)

    def __call__(self, frame: AnyFrame, *, alpha: Alpha | None = None, controls: ControlValues | None = None) -> NDArray[Any]:
        """Renders a frame, (H, W, 3) RGB -> (scale * H, scale * W, 3), a fresh array; takes and raises what `render` does."""
        return self.render(frame, alpha=alpha, controls=controls).output

    def render(self, frame: AnyFrame, *, alpha: Alpha | None = None, controls: ControlValues | None = None) -> RenderedFrame:
        """Renders a frame.

        Args:
            frame: uint8, uint16 or float32 (H, W, 3), RGB; white is 255, 65535 or 1. Read before this returns. (H, W, 4), RGBA,
                gives RGBA; an image of Pillow is taken as such an array. On a GPU also an array in its memory, an object with
                `__cuda_array_interface__`, such as a tensor of PyTorch.
            alpha: The frame's own alpha, with the rules that are in force: this frame has it, no other one, and `session.alpha`
                stays. It is refitted if no slot has it; `change_seconds` tells how long that took. None: `session.alpha`.
            controls: The frame's own values of some controls, in the same way. None: `session.controls`.

        Returns:
            The output, a fresh array of the frame's dtype, with the generation and the coefficients it was rendered with. A
            float32 output is neither rounded nor clamped. That of a frame in a GPU's memory is there, too: an object with
            `shape`, `dtype` and `__cuda_array_interface__`, to be kept until what reads it has run.

        Raises:
            UsageError: `frame` or a control's value is none.
            CoefficientsError: `alpha` is none; nothing was done.
            MismatchError: The network does not turn frames into frames.
            EngineError: A refit or the engine failed, the output is not finite, or the session is closed.
        """
        colors, transparency = split_transparency(frame)
        state = self._check_request(colors, alpha, controls)
        return self._refitter.use(lambda weights: self._render(colors, transparency, weights), state)

    def _check_request(self, frame: AnyFrame, alpha: Alpha | None, controls: ControlValues | None = None) -> RenderState | None:
        if not hasattr(frame, "__cuda_array_interface__"):  # what has it is checked by the engine, which reads it
            check_frame(frame)
        check_signature(self.signature)
        state = None if alpha is None and not controls else self._parse_state(alpha, controls)
        self._check_open()
        return state

    def _render(
        self, colors: AnyFrame, transparency: NDArray[Any] | None, weights: CurrentWeights[RenderState]
    ) -> RenderedFrame:
        output = self.engine.render(weights.slot, colors, self.signature)
        if transparency is not None:
            output = join_transparency(output, transparency)
        return RenderedFrame(output, weights.generation, weights.value.coefficients)

    def submit(
        self, frame: AnyFrame, *, alpha: Alpha | None = None, controls: ControlValues | None = None
    ) -> Future[RenderedFrame]:
        """Begins to render a frame, so that it overlaps with those before and after it.

        Waits while FRAMES_IN_FLIGHT frames are under way, and for a refit where the frame needs one: weights are chosen and
        refitted here, in the order of the calls, beside the frames that are under way.

        Args:
            frame: As in `render`; an array on the host is copied, so that the caller may change it at once.
            alpha: As in `render`; None: `session.alpha` as it is now.
            controls: As in `render`, likewise.

        Returns:
            What `render` returns, or what the engine raises, later.

        Raises:
            UsageError: As `render`, like CoefficientsError, MismatchError and, for a refit or a closed session, EngineError.
        """
        colors, transparency = split_transparency(frame)
        state = self._check_request(colors, alpha, controls)
        source = colors.copy() if isinstance(colors, np.ndarray) else colors
        return self._ring.submit(lambda weights: self._render(source, transparency, weights), state)

    def stream(self, frames: Iterable[AnyFrame], *, alphas: Iterable[Alpha | None] | None = None) -> Iterator[RenderedFrame]:
        """Renders frames in their order, with several under way at once.

        What `frames` or `alphas` raises comes after the outputs of the frames before it, and so does what a frame raises. A
        caller that stops early leaves nothing running.

        Args:
            frames: As in `submit`, each read when there is room for it.
            alphas: One for each frame, as in `submit`; ends the stream where it is shorter. None: `session.alpha`.

        Yields:
            What `render` returns for each frame.

        Raises:
            UsageError: As `render`, like its other errors.
        """
        requests = ((frame, None) for frame in frames) if alphas is None else zip(frames, alphas, strict=False)
        return self._ring.stream(self.submit(frame, alpha=alpha) for frame, alpha in requests)

    def render_pixels(self, frame: AnyFrame, *, alpha: Alpha | None = None) -> RenderedPixels:
        """Renders a frame without rounding, for callers that go on computing with it; takes and raises what `render` does."""
        state = self._check_request(frame, alpha)
        x = to_network(frame, self.signature)
        y, weights = self._refitter.use(lambda weights: (self.engine.infer(weights.slot, x), weights), state)
        return RenderedPixels(to_pixels(y, frame, self.signature), weights.generation, weights.value.coefficients)

    def infer(self, x: NDArray[np.float32], *, alpha: Alpha | None = None) -> NDArray[np.float32]:
        """Runs the raw network, without padding or a change of range.

        Args:
            x: float32 (N, C, H, W); H and W must suit the network.
            alpha: As in `render`.

        Returns:
            float32 (N, C', H', W'), a fresh array.

        Raises:
            UsageError: x has another type, rank or number of channels.
            CoefficientsError: As in `render`.
            EngineError: A refit or the engine failed, or the session is closed.
        """
        if not isinstance(x, np.ndarray) or x.dtype != np.float32 or x.ndim != 4 or x.size == 0:
            got = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
            raise UsageError(f"infer takes a float32 array (N, C, H, W); got {got}.")
        if x.shape[1] != self.signature.input_channels:
            raise UsageError(f"The network takes {self.signature.input_channels} channels, the array has {x.shape[1]}.")
        state = None if alpha is None else self._parse_state(alpha, None)
        self._check_open()
        return self._refitter.use(lambda weights: self.engine.infer(weights.slot, np.ascontiguousarray(x)), state)

    def _check_open(self) -> None:
        self._ring.check_process()
        if self._closed:
            raise EngineError("The session is closed.")

    def close(self) -> None:
        """Frees the engine, after the submitted frames that are running; those that are not yet fail. Calling it again does nothing.

        No other frame may be running. In a process that was forked it does nothing.

        Raises:
            EngineError: A refit of `async_refit` does not end; the engine is not freed under it then.
        """
        if self._ring.is_in_other_process:
            self._closed = True
            self._finalizer()
        elif not self._closed:
            self._closed = True
            self._ring.close()
            finalizer = self._finalizer.detach()
            if isinstance(self._refitter, AsyncRefit):
                self._refitter.close()
            if finalizer is not None:
                self.engine.close()

    def __repr__(self) -> str:
        return f"<Session closed, {self.alpha}>" if self._closed else f"<Session {self.alpha} on {self.engine.name}>"

    def _repr_html_(self) -> str:
        """Shows a notebook what the session is, and a photograph rendered with its alpha."""
        from dni_deploy.imaging.html import format_html, read_sample  # Pillow, which frames do not need

        picture = None
        if not self._closed and self.signature.takes_frames:
            with suppress(DniError):  # what cannot be rendered is no reason to show nothing
                picture = self(read_sample())
        return format_html(repr(self), self.alpha, picture)

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            "A session belongs to its process and cannot be pickled; open one in each process, from the bundle's path."
        )

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _close_in_process(engine: Engine, process_id: int) -> None:
    """Closes an engine; in a fork of its process, keeps it for ever: freeing it would wait for threads that are not there."""
    if os.getpid() == process_id:
        engine.close()
    else:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine))


def open_session(
    bundle: Bundle | str | os.PathLike[str],
    options: SessionOptions | None = None,
    *,
    alpha: Alpha | None = None,
    **keywords: Any,
) -> Session:
    """Opens a bundle, loads an engine for it and sets the first alpha.

    Args:
        bundle: The bundle or its path.
        options: Engine, precision, rules and the like; None: the defaults.
        alpha: The first alpha; None: the first member alone.
        **keywords: Fields of SessionOptions by name, instead of `options` or to change some of them.

    Returns:
        The session, which owns the engine; the caller closes it.

    Raises:
        UsageError: An option is out of range or unknown.
        BundleError: The bundle is damaged.
        CoefficientsError: The alpha or a rule does not suit the family.
        UnavailableError: The engine cannot run here.
        EngineError: The engine could not be opened.
    """
    started = time.perf_counter()
    options = replace(options or SessionOptions(), **keywords)
    rules, extrapolate = list(options.rules), options.extrapolate
    opened = Bundle.ensure_open(bundle)
    members = opened.members
    if opened.manifest.calibration is not None and (rules or extrapolate):
        raise CoefficientsError(GROUPS_UNSUPPORTED_MESSAGE if rules else EXTRAPOLATION_UNSUPPORTED_MESSAGE)
    initial = (
        Coefficients.one_hot(members[0], members)
        if alpha is None
        else Coefficients.parse(alpha, members, extrapolate=extrapolate)
    )
    guard = None
    if extrapolate:
        tensors = [opened.read_weights(member) for member in members]
        guard = VarianceGuard(tensors, list_variance_names(opened.weight_names, opened.read_graph()))
        if not rules:
            guard.check(initial)
    groups = _read_weight_groups(opened) if rules else None  # before the engine, which may take long to open
    bound_rules = AlphaRules.parse(rules, groups, members, extrapolate=extrapolate) if groups else None
    if opened.manifest.calibration is not None:
        log.info("the calibration of %s is in use", opened.path)
    controls = ControlSettings.make_default(opened.signature.controls, opened.weight_names).change(options.controls)
    engine, choice = open_engine(opened, options.engine, options.engine_options)
    try:
        session = Session(
            engine,
            members,
            opened.signature,
            initial,
            variance_guard=guard,
            async_refit=options.async_refit,
            engine_reason=choice.reason,
            load_groups=lambda: groups or _read_weight_groups(opened),
            rules=bound_rules,
            controls=controls,
        )
        log.info("session opened in %.2f s: engine %s (%s)", time.perf_counter() - started, engine.name, choice.reason)
        return session
    except BaseException:
        engine.close()  # its first refit failed, and nobody else knows of it
        raise


def _read_weight_groups(bundle: Bundle) -> WeightGroups:
    if bundle.manifest.calibration is not None:
        raise CoefficientsError(GROUPS_UNSUPPORTED_MESSAGE)
    return WeightGroups.from_graph(bundle.read_graph(), bundle.weight_names)
