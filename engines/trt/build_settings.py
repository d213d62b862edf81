"""Build settings: everything that TensorRT's builder is told besides the graph. The builder takes no flag from anywhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engines.interface import check_precision
from engines.profile import Profile
from engines.trt.features import Features


@dataclass(frozen=True)
class BuildSettings:
    """The settings of one build; a part of the plan's identity. A flag that is set goes in here, so that it makes another plan.

    The first three are the user's choice; the rest follows from them, the kind of plan and what this TensorRT can do.

    Attributes:
        precision: "fp32" or "fp16". Where TensorRT goes by the graph's own types, those say it all.
        profile: Shapes of the graph's first input; all others have fixed ones.
        strip: The values of refittable weights are left out of the plan.
        fp16: The builder's flag for half precision, where TensorRT does not go by the graph's types.
        refit: All weights are made refittable, by the builder's flag.
        refit_individual: Weights are made refittable one by one.
        tf32: Float32 may be computed with 10 bits of mantissa.
        strongly_typed: TensorRT goes by the graph's own types.
        explicit_batch: The network is told that its batch is a dimension.
        native_instancenorm: The parser is told to keep InstanceNormalization refittable.
        tactic_sources: Names of the libraries that kernels may come from; None for TensorRT's own choice.
        profiling_verbosity: Name of how much the plan tells of its layers.
    """

    precision: str
    profile: Profile
    strip: bool
    fp16: bool
    refit: bool
    refit_individual: bool
    tf32: bool
    strongly_typed: bool
    explicit_batch: bool
    native_instancenorm: bool
    tactic_sources: tuple[str, ...] | None
    profiling_verbosity: str

    @classmethod
    def choose(cls, kind: str, precision: str, profile: Profile, strip: bool, features: Features) -> BuildSettings:
        """Chooses the settings for a kind of plan.

        Args:
            kind: "refit", "inputs", "graph" or "constant".
            precision: "fp32" or "fp16".
            profile: Shapes of the input.
            strip: Leave weights out of the plan; for "refit" alone, ignored for others.
            features: What this TensorRT can do.
        """
        return cls(
            precision=precision,
            profile=profile,
            strip=strip and kind == "refit",
            fp16=precision == "fp16" and not features.strongly_typed,
            refit=kind == "refit" and not features.individual_refit,
            refit_individual=kind == "refit" and features.individual_refit,
            tf32=False,  # its 10 bits of mantissa err by 1e-4 to 1e-3, and would hide a wrong refit (RefitObserver sample, 11.3)
            strongly_typed=features.strongly_typed,
            explicit_batch=features.explicit_batch,
            native_instancenorm=features.native_instancenorm,
            tactic_sources=("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS") if features.narrow_tactics else None,
            profiling_verbosity="LAYER_NAMES_ONLY",
        )

    def to_json(self) -> dict[str, Any]:
        """Describes the settings under fixed keys, which messages name as well."""
        return {
            "precision": self.precision,
            "profile": [list(shape) for shape in (self.profile.smallest, self.profile.tuned, self.profile.largest)],
            "strip": self.strip,
            "fp16": self.fp16,
            "refit": self.refit,
            "refit individual": self.refit_individual,
            "tf32": self.tf32,
            "strongly typed": self.strongly_typed,
            "explicit batch": self.explicit_batch,
            "native instancenorm": self.native_instancenorm,
            "tactic sources": None if self.tactic_sources is None else list(self.tactic_sources),
            "profiling verbosity": self.profiling_verbosity,
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> BuildSettings:
        """Reads what `to_json` gives. Raises ValueError, KeyError or TypeError where it is something else."""
        sources, precision = fields["tactic sources"], str(fields["precision"])
        check_precision(precision)  # its UsageError is a ValueError
        return cls(
            precision=precision,
            profile=Profile(*(_read_shape(shape) for shape in fields["profile"])),
            strip=bool(fields["strip"]),
            fp16=bool(fields["fp16"]),
            refit=bool(fields["refit"]),
            refit_individual=bool(fields["refit individual"]),
            tf32=bool(fields["tf32"]),
            strongly_typed=bool(fields["strongly typed"]),
            explicit_batch=bool(fields["explicit batch"]),
            native_instancenorm=bool(fields["native instancenorm"]),
            tactic_sources=None if sources is None else tuple(map(str, sources)),
            profiling_verbosity=str(fields["profiling verbosity"]),
        )


def _read_shape(sizes: Any) -> tuple[int, int, int, int]:
    batch, channels, height, width = map(int, sizes)
    return batch, channels, height, width
