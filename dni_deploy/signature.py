"""Signature: what goes into and comes out of a network, as far as frames are concerned."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dni_deploy.errors import BundleError

NetworkKind = Literal["image", "latent"]


@dataclass(frozen=True)
class Signature:
    """Channels, scale and value range of one network.

    kind        "image": float32 (N, C, H, W) in and out; "latent": float32 (N, C, 1, 1) noise in, a picture out.
    scale       output height over input height (and width); 1 for a filter, 4 for x4 super-resolution.
    multiple    height and width of the input must be multiples of this; frames are padded by reflection and cropped.
    low, high   the values that stand for black and white, in and out: 0, 1 or -1, 1.
    residual    the network gives the noise, and the picture is input minus output.
    radius      how many input pixels around one it may depend on; None where it depends on the whole picture
                (InstanceNorm, attention), so that tiles would show.
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

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: object) -> Signature:
        """Raises BundleError on unknown or missing fields and on values of the wrong type."""
        if not isinstance(fields, dict) or set(fields) != set(cls.__dataclass_fields__):
            raise BundleError("The manifest's 'signature' does not have the fields of this version.")
        whole = (fields["input_channels"], fields["output_channels"], fields["scale"], fields["multiple"])
        if not all(type(number) is int and 0 < number < 2**16 for number in whole):
            raise BundleError(
                "The manifest's 'signature' has a channel count, scale or multiple that is not a positive number."
            )
        if fields["kind"] not in ("image", "latent") or type(fields["residual"]) is not bool:
            raise BundleError("The manifest's 'signature' has an unknown 'kind' or 'residual'.")
        low, high, radius = fields["low"], fields["high"], fields["radius"]
        if not all(type(end) in (int, float) and math.isfinite(end) for end in (low, high)) or not low < high:
            raise BundleError("The manifest's 'signature' has a value range that is not two numbers, the smaller one first.")
        if radius is not None and (type(radius) is not int or radius < 0):
            raise BundleError("The manifest's 'signature' has a 'radius' that is not a number of pixels.")
        return cls(**{**fields, "low": float(fields["low"]), "high": float(fields["high"])})
