"""A network captured by torch.export for every size, and not only for the one that it was traced with.

Python's `int()` of a number that was divided turns it into a constant: `int(h / 8)` is 3 for ever after tracing with 24 pixels,
and transformers that undo their windows by `int(windows.shape[0] / (h * w / 64))` are fixed to the batch of the example, without
a word. Here the captured program is run at other sizes, and captured again in another way where it computes something else.
"""

from __future__ import annotations

import builtins
import contextlib
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.sym_node import SymNode
from torch.nn import functional

from dni_deploy.errors import InputError, MismatchError, escape_name
from dni_deploy.signature import Signature
from dni_deploy.utils.compare_arrays import relative_error

CAPTURE_MODES = ((False, False), (True, False), (True, True))
"""(batch fixed to one image, integers kept symbolic), in the order in which they are tried. Symbolic integers come last: they
are arithmetic in the graph that a network without them does without."""
FIXED_SIZE = re.compile(r"size\(\)\[(\d)\] as dynamic but your code specialized it to be a constant \((\d+)\)")
FAILED_LINE = re.compile(r'The following call raised this error:\s+File "(.+?)", line (\d+), in \w+\n +(.+)')
"""What torch.export says of a size that became a number, and of a decision that depends on the pixels."""
AXIS_NAMES = ("batch", "channels", "height", "width")
MAX_RELATIVE_ERROR = 1e-5
"""A captured program runs PyTorch's own operators, in the same order."""


def capture_program(
    net: nn.Module, wrapped: nn.Module, values: tuple[Tensor, ...], signature: Signature, *, takes_batches: bool = True
) -> torch.export.ExportedProgram:
    """Captures a network so that it follows its input's height and width, and its batch where it can.

    Args:
        net: In eval mode.
        wrapped: The network as a function of its input and of a tuple of its weights.
        values: The weights.
        signature: Of the network.
        takes_batches: Whether the network runs on more than one image.

    Returns:
        The program; its input's batch is 1 where the network fixes it.

    Raises:
        InputError: torch.export cannot capture the network, or only for one size; names the line of code where that is known.
    """
    example, axes = make_example_input(signature)
    modes: tuple[tuple[bool, bool], ...] = (
        CAPTURE_MODES if signature.kind == "image" and signature.frame_batch == 1 else CAPTURE_MODES[:1]
    )
    modes = modes if takes_batches else CAPTURE_MODES[1:]
    fixing_lines: list[str] = []
    for fixed_batch, symbolic in modes:
        fixing_lines.clear()
        x = example[:1] if fixed_batch else example
        dynamic_axes = {axis: dimension for axis, dimension in axes.items() if axis or not fixed_batch}
        try:
            with (
                keep_integers_symbolic(net) if symbolic else contextlib.nullcontext(),
                _pool_in_whole_steps(),
                _record_fixing_lines(fixing_lines),
            ):
                program = _export(wrapped, x, values, dynamic_axes)
            _check_other_sizes(program, net, values, signature, fixed_batch)
        except Exception as error:
            if (fixed_batch, symbolic) == modes[-1]:
                raise InputError(
                    f"The network {escape_name(type(net).__name__)} cannot be exported: {_explain(error, fixing_lines)}"
                ) from error
        else:
            return program
    raise AssertionError("unreachable")


def small_sides(signature: Signature) -> tuple[int, int]:
    """Returns two different sides in pixels that the network takes, the smaller one first: 13 and 18 for multiple 1."""
    short = signature.round_up_side(13)
    return short, signature.round_up_side(short + 5)


def make_example_input(signature: Signature) -> tuple[Tensor, dict[int, Any]]:
    """Makes an input to trace the network with.

    Batch 2 and two different sides, all above 1 and multiples of the network's, so that no size is exported as a constant. The
    sides are above the smallest, too: a network that cuts images into patches of that side has one patch there.

    Args:
        signature: Of the network.

    Returns:
        float32 (2, C, h, w), and its dynamic axes as the exporter takes them.
    """
    block, generator = signature.multiple, torch.Generator().manual_seed(0)
    if signature.kind == "latent":
        return torch.rand(2, signature.input_channels, 1, 1, generator=generator), {0: torch.export.Dim.DYNAMIC}
    height = signature.round_up_side(max(22, 2 * block, 2 * signature.minimum))
    width = signature.round_up_side(height + 9)
    side: Any = torch.export.Dim.DYNAMIC
    sides = [side, side] if block == 1 else [block * torch.export.Dim(name, min=1) for name in ("rows", "columns")]
    return torch.rand(2, signature.input_channels, height, width, generator=generator), {0: side, 2: sides[0], 3: sides[1]}


def _export(
    wrapped: nn.Module, x: Tensor, values: tuple[Tensor, ...], dynamic_axes: dict[int, Any]
) -> torch.export.ExportedProgram:
    no_axes: dict[int, Any] = {}
    # As torch.onnx does: without it, a batch or a side of 1 is no input of the program.
    with torch.fx.experimental._config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        return torch.export.export(
            wrapped, (x, values), dynamic_shapes=(dynamic_axes, tuple(no_axes for _ in values)), strict=False
        )


def _check_other_sizes(
    program: torch.export.ExportedProgram, net: nn.Module, values: tuple[Tensor, ...], signature: Signature, fixed_batch: bool
) -> None:
    run = program.module(check_guards=False)  # many a guard excludes a size at which the program is right
    short, long = small_sides(signature)
    # The last one is larger than the example: a network that cuts images into patches may count those of the example.
    generator = torch.Generator().manual_seed(1)
    for batch, height, width in ((1, short, long), (1 if fixed_batch else 3, long, short), (1, 4 * short, 3 * long)):
        size = (1, 1) if signature.kind == "latent" else (height, width)
        x = torch.rand(batch, signature.input_channels, *size, generator=generator)
        with torch.no_grad():
            expected: Tensor = net(x.clone()).detach()
            output: Tensor = run(x.clone(), values).detach()
        if output.shape != expected.shape or relative_error(output.numpy(), expected.numpy()) > MAX_RELATIVE_ERROR:
            with torch.no_grad():
                program.module()(x, values)  # names the assumption that does not hold
            raise MismatchError(f"it computes something else for {batch} x {height} x {width} pixels than for the example")


@contextlib.contextmanager
def _pool_in_whole_steps() -> Iterator[None]:
    """Pools to a part of the size (SAFMN: h // 4) by a plain max pool, which ONNX has for every size.

    It is the same where the size is a multiple of the part, as the network's multiple makes it; the check at other sizes tells.
    """
    module: Any = functional
    adaptive_max_pool2d: Any = module.adaptive_max_pool2d

    def pool(x: Tensor, output_size: Any, return_indices: bool = False) -> Any:
        if (
            return_indices
            or not isinstance(output_size, (list, tuple))
            or not any(isinstance(side, torch.SymInt) for side in output_size)
        ):
            return adaptive_max_pool2d(x, output_size, return_indices)
        return functional.max_pool2d(
            x, [builtins.int(side // part) for side, part in zip(x.shape[2:], output_size, strict=True)]
        )

    try:
        module.adaptive_max_pool2d = pool
        yield
    finally:
        module.adaptive_max_pool2d = adaptive_max_pool2d


@contextlib.contextmanager
def _record_fixing_lines(lines: list[str]) -> Iterator[None]:
    """Records the lines of code, outside of PyTorch, that turn a symbolic size into a number."""
    guard_int = SymNode.guard_int

    def record(self: SymNode, file: str, line: int) -> int:
        for frame in reversed(traceback.extract_stack()[:-1]):
            if "/torch/" not in frame.filename.replace("\\", "/") and frame.filename != __file__:
                lines.append(f"{frame.filename}, line {frame.lineno}: {frame.line}")
                break
        number: int = guard_int(self, file, line)
        return number

    try:
        SymNode.guard_int = record  # type: ignore[method-assign]
        yield
    finally:
        SymNode.guard_int = guard_int  # type: ignore[method-assign]


def _explain(error: Exception, fixing_lines: Sequence[str]) -> str:
    """The end of a sentence: what torch.export could not follow, in which line of the network's code."""
    text = str(error)
    failed, fixed = FAILED_LINE.search(text), FIXED_SIZE.findall(text)
    place = f"{failed[1]}, line {failed[2]}: {failed[3]}" if failed else next(iter(fixing_lines), "")
    if not fixed:
        return format_reason(error).rstrip(".") + (f", in {escape_name(place)}" if place else "") + "."
    sizes = " and ".join(f"{AXIS_NAMES[int(axis)]} to {size}" for axis, size in fixed)
    advice = " torch.arange(h) follows the size, torch.linspace(a, b, h) does not." if "linspace" in place else ""
    return f"its code fixes {sizes}" + (f" in {escape_name(place)}" if place else "") + "." + advice


def format_reason(error: BaseException) -> str:
    """Returns the first line of what went wrong at the bottom, as the end of a sentence."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return escape_name(lines[0] if lines else type(error).__name__).rstrip(".") + "."


class _SymbolicIntType(type):
    """The type of `SymbolicInt`: calling it converts, and isinstance() answers as for int."""

    def __call__(cls, *arguments: Any, **options: Any) -> Any:
        if arguments and isinstance(arguments[0], (torch.SymInt, torch.SymFloat)):
            return torch.sym_int(arguments[0])
        return builtins.int(*arguments, **options)

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, (builtins.int, torch.SymInt))


class SymbolicInt(int, metaclass=_SymbolicIntType):
    """Python's int for code that is traced: sizes that are not known stay symbols."""


@contextlib.contextmanager
def keep_integers_symbolic(net: nn.Module) -> Iterator[None]:
    """Makes `int()` keep sizes symbolic in the modules that a network's code is in, PyTorch's own apart."""
    modules = list(_find_code_modules(net))
    try:
        for module in modules:
            vars(module)["int"] = SymbolicInt
        yield
    finally:
        for module in modules:
            del vars(module)["int"]


def _find_code_modules(net: nn.Module) -> Iterator[ModuleType]:
    """The modules of a network's classes and those beside them in the same package, which hold helper functions."""
    names = {base.__module__ for module in net.modules() for base in type(module).__mro__}
    names = {name for name in names if name.partition(".")[0] not in ("torch", "builtins", "exporters")}
    packages = {name.rpartition(".")[0] + "." for name in names if "." in name}
    for name, module in list(sys.modules.items()):
        if (name in names or any(name.startswith(package) for package in packages)) and "int" not in vars(module):
            yield module
