"""What goes into a network and comes out, as far as frames are concerned."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dni_deploy.errors import BundleError, UsageError
from dni_deploy.network_controls import MAX_CONTROLS, Control, check_controls

NetworkKind = Literal["image", "latent"]
ColorMode = Literal["channels", "luma"]

OPTIONAL_FIELDS: dict[str, Any] = {"minimum": 1, "controls": [], "color": "channels"}
"""Fields that manifests had not at first, and what their absence means."""


@dataclass(frozen=True)
class Signature:
    """Channels, scale and value range of one network.

    Attributes:
        input_channels: Channels of the input.
        output_channels: Channels of the output.
        scale: Output height over input height (and width): 1 for a filter, 4 for x4 super-resolution.
        multiple: Height and width of the input must be multiples of this; frames are padded by reflection and cropped.
        low: The value that is black, in and out: 0 or -1.
        high: The value that is white, in and out: 1.
        residual: Whether the network computes the noise, and the image is input minus output.
        radius: How many input pixels around one an output pixel may depend on; None where it depends on the whole image
            (InstanceNorm, attention), so that tiles would be visible.
        kind: "image": float32 (N, C, H, W) in and out; "latent": float32 (N, C, 1, 1) noise in, an image out.
        minimum: Smallest height and width of the input, in pixels; smaller frames are padded and cropped in the same way.
        controls: Numbers that the network takes beside the image, which a running engine changes.
        color: How a network of one channel gets a frame: "channels": red, green and blue as three gray images; "luma": Y alone,
            while the color beside it is enlarged (bicubic). Other networks have "channels".
    """

    input_channels: int = 3
    output_channels: int = 3
    scale: int = 1
    multiple: int = 1
    low: float = 0.0
    high: float = 1.0
    residual: bool = False
    radius: int | None = None
    kind: NetworkKind = "image"
    minimum: int = 1
    controls: tuple[Control, ...] = ()
    color: ColorMode = "channels"

    @property
    def takes_frames(self) -> bool:
        """Whether the network turns frames into frames: images of three channels, or of one."""
        return self.kind == "image" and (self.input_channels, self.output_channels) in ((3, 3), (1, 1))

    @property
    def frame_batch(self) -> int:
        """Number of images in the batch of a frame, N: a network of one channel takes the three colors as three, or the luma."""
        return 3 if self.takes_frames and self.input_channels == 1 and self.color == "channels" else 1

    def round_up_side(self, side: int) -> int:
        """Returns the smallest height or width that the network takes and that is at least `side` pixels."""
        return -(-max(side, self.minimum) // self.multiple) * self.multiple

    def to_json(self) -> dict[str, Any]:
        """Returns the fields by name; OPTIONAL_FIELDS are left out where they say nothing."""
        fields = {**asdict(self), "controls": [asdict(control) for control in self.controls]}
        return {name: value for name, value in fields.items() if name not in OPTIONAL_FIELDS or value != OPTIONAL_FIELDS[name]}

    @classmethod
    def from_json(cls, fields: object) -> Signature:
        """Reads the fields by name.

        Raises:
            BundleError: A field is unknown, missing, or of the wrong type.
        """
        if not isinstance(fields, dict) or set(fields) | set(OPTIONAL_FIELDS) != set(cls.__dataclass_fields__):
            raise BundleError("The manifest's 'signature' does not have the fields of this version.")
        fields = {**OPTIONAL_FIELDS, **fields}
        counts = [fields[name] for name in ("input_channels", "output_channels", "scale", "multiple", "minimum")]
        if not all(type(number) is int and 0 < number < 2**16 for number in counts):
            raise BundleError(
                "The manifest's 'signature' has a channel count, scale, multiple or minimum that is not a positive number."
            )
        if fields["kind"] not in ("image", "latent") or type(fields["residual"]) is not bool:
            raise BundleError("The manifest's 'signature' has an unknown 'kind' or 'residual'.")
        if fields["color"] not in ("channels", "luma") or (fields["color"] == "luma" and fields["input_channels"] != 1):
            raise BundleError("The manifest's 'signature' has a 'color' that is unknown, or of a network of several channels.")
        low, high, radius = fields["low"], fields["high"], fields["radius"]
        if not all(type(end) in (int, float) and abs(end) <= sys.float_info.max for end in (low, high)) or not low < high:
            raise BundleError("The manifest's 'signature' has a value range that is not two numbers, the smaller one first.")
        if radius is not None and (type(radius) is not int or radius < 0):
            raise BundleError("The manifest's 'signature' has a 'radius' that is not a number of pixels.")
        return cls(**{**fields, "low": float(low), "high": float(high), "controls": _parse_controls(fields["controls"])})

    def describe(self) -> str:
        """Describes frames in and out in a few words: "3 -> 3 channels, x4, values 0..1"."""
        if self.kind == "latent":
            return f"{self.input_channels} numbers of noise -> an image of {self.output_channels} channels"
        parts = [f"{self.input_channels} -> {self.output_channels} channels", f"x{self.scale}"]
        parts += ["luma"] if self.color == "luma" else []
        parts.append(f"values {self.low:g}..{self.high:g}")
        parts += ["the network outputs the noise"] if self.residual else []
        parts += [f"sides in multiples of {self.multiple}"] if self.multiple > 1 else []
        parts += [f"at least {self.round_up_side(1)} pixels a side"] if self.minimum > self.multiple else []
        parts += [f"{control.name} {control.low:g}..{control.high:g}" for control in self.controls]
        return ", ".join(parts)


def _parse_controls(rows: object) -> tuple[Control, ...]:
    if not isinstance(rows, list) or len(rows) > MAX_CONTROLS:
        raise BundleError("The manifest's 'signature' has controls that are no list, or too many.")
    controls = tuple(Control.from_json(row) for row in rows)
    try:
        check_controls(controls)
    except UsageError as error:
        raise BundleError(f"The manifest's 'signature' has controls that cannot be used: {error}") from None
    return controls
