"""The input shapes that an engine is built for: the smallest, the one it is tuned for, and the largest."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from dni_deploy.errors import UsageError, escape_name
from dni_deploy.signature import Signature

InputShape = tuple[int, int, int, int]
"""(N, C, H, W), H and W in pixels."""
MIN_PROFILE_SIZE_PX, OPT_PROFILE_SIZE_PX, MAX_PROFILE_SIZE_PX = (32, 32), (720, 1280), (1088, 1920)
"""Height and width by default: anything up to a full HD frame, tuned for 720p."""
MAX_SIDE_PX = 1 << 14


@dataclass(frozen=True)
class Profile:
    """Three shapes with smallest <= tuned <= largest in every dimension.

    Attributes:
        smallest: The smallest shape that can run.
        tuned: The shape that runs fastest.
        largest: The largest shape that can run.
    """

    smallest: InputShape
    tuned: InputShape
    largest: InputShape

    def __post_init__(self) -> None:
        for low, middle, high in zip(self.smallest, self.tuned, self.largest, strict=True):
            if not low <= middle <= high:
                raise UsageError(f"A profile needs min <= opt <= max in every dimension; got {self}.")

    @property
    def is_fixed(self) -> bool:
        """Whether one shape alone can run."""
        return self.smallest == self.largest

    def contains_shape(self, shape: tuple[int, ...]) -> bool:
        """Tells whether an input of this shape can run."""
        return len(shape) == 4 and all(
            low <= size <= high for low, size, high in zip(self.smallest, shape, self.largest, strict=True)
        )

    def __str__(self) -> str:
        texts = ["x".join(map(str, shape)) for shape in (self.smallest, self.tuned, self.largest)]
        return texts[0] if self.is_fixed else f"min {texts[0]}, opt {texts[1]}, max {texts[2]}"

    @classmethod
    def from_shapes(
        cls,
        signature: Signature,
        smallest: str | InputShape | None = None,
        tuned: str | InputShape | None = None,
        largest: str | InputShape | None = None,
        default_max_size: tuple[int, int] = MAX_PROFILE_SIZE_PX,
    ) -> Profile:
        """Makes a profile from the shapes that were given and fills in the rest.

        `tuned` alone makes a fixed shape; without any, 32x32 to 1920x1088 is tuned for 1280x720, with the batch of a frame: 1,
        or 3 for a network of one channel, which then takes 1 to 3. A latent has one place unless a shape says otherwise.

        Args:
            signature: The network's signature.
            smallest: (N, C, H, W) or a text such as 1x3x256x256; None for the default.
            tuned: As `smallest`.
            largest: As `smallest`.
            default_max_size: Height and width of the largest shape where it is not given, and to which the tuned one is cut.

        Returns:
            The profile.

        Raises:
            UsageError: Not a shape, another number of channels, a height or width that the network cannot take, min above opt
                or opt above max, or a batch that leaves out that of a frame.
        """
        low, middle, high = (
            None if shape is None else _validate_shape(shape, signature) for shape in (smallest, tuned, largest)
        )
        if signature.kind == "latent":
            one = (1, signature.input_channels, 1, 1)
            return cls(low or middle or one, middle or low or one, high or middle or low or one)
        if middle is not None and low is None and high is None:
            low = high = middle
        low = low or _min_shape(make_default_shape(1, MIN_PROFILE_SIZE_PX, signature), middle or high)
        batch = signature.frame_batch
        if high is None:
            high = _max_shape(make_default_shape(batch, default_max_size, signature), middle or low)
        if middle is None:
            middle = _min_shape(_max_shape(make_default_shape(batch, OPT_PROFILE_SIZE_PX, signature), low), high)
        profile = cls(low, middle, high)
        if signature.takes_frames and not low[0] <= batch <= high[0]:
            raise UsageError(
                f"A frame is a batch of {batch} to this network{', one image for each color' if batch > 1 else ''}, which the "
                f"shapes leave out ({profile}); write {batch}x{signature.input_channels}xHxW."
            )
        return profile


def make_default_shape(batch: int, size: tuple[int, int], signature: Signature) -> InputShape:
    """Makes the shape (N, C, H, W) of a height and width in pixels, rounded up to what the network takes."""
    height, width = (signature.round_up_side(side) for side in size)
    return (batch, signature.input_channels, height, width)


def _min_shape(shape: InputShape, other: InputShape | None) -> InputShape:
    return shape if other is None else _make_shape(map(min, shape, other))


def _max_shape(shape: InputShape, other: InputShape | None) -> InputShape:
    return shape if other is None else _make_shape(map(max, shape, other))


def _make_shape(sizes: Iterable[int]) -> InputShape:
    batch, channels, height, width = sizes
    return (batch, channels, height, width)


def _validate_shape(shape: str | InputShape, signature: Signature) -> InputShape:
    sizes: tuple[int, ...]
    if isinstance(shape, str):
        if not re.fullmatch(r"[0-9]{1,5}(x[0-9]{1,5}){3}", shape):
            raise UsageError(f"{escape_name(shape)!r} is not a shape; write NxCxHxW, such as 1x3x256x256.")
        sizes = tuple(map(int, shape.split("x")))
    else:
        sizes = tuple(shape)
    if len(sizes) != 4 or min(sizes) < 1 or max(sizes) > MAX_SIDE_PX:
        raise UsageError(f"A shape is four numbers from 1 to {MAX_SIDE_PX}, NxCxHxW; got {'x'.join(map(str, sizes))}.")
    if sizes[1] != signature.input_channels:
        raise UsageError(f"The network takes {signature.input_channels} channels; {'x'.join(map(str, sizes))} has {sizes[1]}.")
    if any(side % signature.multiple for side in sizes[2:]):
        raise UsageError(
            f"The network takes heights and widths that are multiples of {signature.multiple}; got {'x'.join(map(str, sizes))}."
        )
    if signature.kind == "image" and min(sizes[2:]) < signature.minimum:
        raise UsageError(
            f"The network takes heights and widths of at least {signature.round_up_side(1)}; got {'x'.join(map(str, sizes))}."
        )
    return _make_shape(sizes)
