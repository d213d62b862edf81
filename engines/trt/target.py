"""Target: what a plan fits: one lowered graph with its build settings, one kind of GPU, one TensorRT."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import MismatchError, UnavailableError, escape_name
from engines.cuda import driver
from engines.profile import Profile
from engines.trt.build_settings import BuildSettings
from engines.trt.features import Features
from engines.trt.network import digest_graph


@dataclass(frozen=True)
class PlanIdentity:
    """A plan's identity: every field is in the plan's header, and where one differs it is another plan.

    Attributes:
        kind: "refit", "inputs", "graph" or "constant".
        graph: Digest of the graph that TensorRT reads, without the weights' numbers, and of how the weights are made.
        settings: What the builder is told.
        members: Digests of the members' files, and of re-estimated BatchNorm statistics, where the plan holds their numbers; else
            empty: a "refit" or "inputs" plan serves every family on the same graph.
        tensorrt: Version of TensorRT.
        gpu: Name of the GPU.
        capability: Its compute capability.
    """

    kind: str
    graph: str
    settings: BuildSettings
    members: tuple[str, ...]
    tensorrt: str
    gpu: str
    capability: tuple[int, int]

    @classmethod
    def for_bundle(
        cls,
        bundle: Bundle,
        kind: str,
        precision: str = "fp32",
        profile: Profile | None = None,
        strip: bool = False,
        device: int = 0,
    ) -> PlanIdentity:
        """Makes what a plan of this kind and these choices must be for, here and now; lowers the bundle's graph for it.

        Args:
            bundle: The bundle.
            kind: Kind of the plan.
            precision: "fp32" or "fp16".
            profile: Shapes of the input; None for the default of the bundle's signature.
            strip: Leave weights out of the plan.
            device: The GPU's number as the driver counts.

        Raises:
            UnavailableError: There is no such GPU.
            EngineError: The graph cannot be lowered.
        """
        found = driver.query_driver()
        if isinstance(found, str):
            raise UnavailableError(f"TensorRT cannot run here: {found}.")
        if device >= len(found.devices):
            raise UnavailableError(f"There is no GPU number {device}; the driver sees {len(found.devices)}, from 0.")
        import tensorrt  # late: it takes a second, and most bundles have no plan at all

        features = Features.from_module(tensorrt)
        manifest = bundle.manifest
        held = [member.stored for member in manifest.members] if kind in ("graph", "constant") else []
        if kind == "graph" and manifest.recalibration is not None:
            held.append(manifest.recalibration)
        return cls(
            kind=kind,
            graph=digest_graph(bundle, kind, features.graph_precision(precision)),
            settings=BuildSettings.choose(kind, precision, profile or Profile.from_shapes(bundle.signature), strip, features),
            members=tuple(stored.sha256 for stored in held),
            tensorrt=features.version,
            gpu=found.devices[device][0],
            capability=found.devices[device][1],
        )

    def with_choices(self, profile: Profile, strip: bool) -> PlanIdentity:
        """Makes the target of the same plan with another profile, and with or without its weights."""
        return replace(self, settings=replace(self.settings, profile=profile, strip=strip))

    @property
    def capability_text(self) -> str:
        return ".".join(map(str, self.capability))

    def to_json(self) -> dict[str, Any]:
        """Describes the identity under fixed keys, as the plan's header has it."""
        return {
            "kind": self.kind,
            "graph": self.graph,
            "settings": self.settings.to_json(),
            "members": list(self.members),
            "tensorrt": self.tensorrt,
            "gpu": self.gpu,
            "capability": list(self.capability),
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> PlanIdentity:
        """Reads what `to_json` gives. Raises ValueError, KeyError or TypeError where it is something else."""
        major, minor = map(int, fields["capability"])
        return cls(
            kind=str(fields["kind"]),
            graph=str(fields["graph"]),
            settings=BuildSettings.from_json(fields["settings"]),
            members=tuple(map(str, fields["members"])),
            tensorrt=str(fields["tensorrt"]),
            gpu=str(fields["gpu"]),
            capability=(major, minor),
        )

    def describe_difference(self, here: PlanIdentity) -> str | None:
        """Says why a plan for this target does not fit.

        Args:
            here: What a plan must be for.

        Returns:
            A clause that follows the plan's name and names the first field that differs; None where the plan fits.
        """
        for what, one, other in (
            ("for the engine of kind", self.kind, here.kind),
            ("for the GPU", f"{self.gpu} ({self.capability_text})", f"{here.gpu} ({here.capability_text})"),
            ("by TensorRT", self.tensorrt, here.tensorrt),
        ):
            if one != other:
                return f"was built {what} {escape_name(one)}, and this is {escape_name(other)}"
        built, wanted = self.settings.to_json(), here.settings.to_json()
        for name in wanted:
            if built[name] != wanted[name]:
                return f"was built with {name} {escape_name(built[name])}, and here it is {escape_name(wanted[name])}"
        if self.members != here.members:
            return "was built from another bundle: the members or their BatchNorm statistics differ"
        if self.graph != here.graph:
            return f"was built from another bundle or another lowering: its graph is {self.graph[:16]}, and this is {here.graph[:16]}"
        return None

    def check_matches(self, current: PlanIdentity, plan_name: str) -> None:
        """Raises MismatchError where a plan for this target does not fit what is `current`; `plan_name` is its name in the message."""
        difference = self.describe_difference(current)
        if difference is not None:
            raise MismatchError(f"{plan_name} {difference}; build it again with dni-deploy build.")
