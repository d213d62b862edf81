"""A plan's identity: graph, build settings, members, library and GPU. Where one differs, it is another plan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import MismatchError, UnavailableError, UsageError, escape_name
from engines.cuda import driver
from engines.interface import check_precision
from engines.lowering.gpu import LoweredGraph
from engines.lowering.graph_digest import digest_lowered_graph
from engines.profile import Profile
from engines.trt.features import Features
from engines.trt.library import LIBRARY_TITLES, Library
from engines.trt.network import Network

Capability = tuple[int, int]
"""A compute capability, (major, minor)."""


def format_capability(capability: Capability) -> str:
    """Writes a compute capability as NVIDIA does, such as "9.0"."""
    return ".".join(map(str, capability))


@dataclass(frozen=True)
class BuildSettings:
    """Everything that TensorRT's builder gets besides the graph. The builder takes no flag from anywhere else.

    The first three are the user's choice; the rest follows from them, the kind of plan and what this TensorRT can do.

    Attributes:
        precision: "fp32", "tf32" or "fp16". Where TensorRT goes by the graph's own types, those say which of fp32 and fp16.
        profile: Shapes of the graph's first input; all others have fixed ones.
        strip: The values of refittable weights are left out of the plan.
        fp16: The builder's flag for half precision, where TensorRT does not go by the graph's types.
        refit: All weights are made refittable, by the builder's flag.
        refit_individual: Weights are made refittable one by one.
        tf32: Float32 may be computed with 10 bits of mantissa.
        strongly_typed: TensorRT goes by the graph's own types.
        explicit_batch: The network has its batch as an explicit dimension.
        native_instancenorm: The parser keeps InstanceNormalization refittable.
        tactic_sources: Names of the libraries that kernels may come from; None for TensorRT's own choice.
        profiling_verbosity: Name of how much the plan tells of its layers.
        preview_features: Names of features that the library has on trial.
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
    preview_features: tuple[str, ...]

    @classmethod
    def choose(cls, refittable: bool, precision: str, profile: Profile, strip: bool, features: Features) -> BuildSettings:
        """Chooses the settings of a build.

        Args:
            refittable: Whether the plan's weights take new values later.
            precision: "fp32" or "fp16".
            profile: Shapes of the input.
            strip: Leave weights out of the plan; ignored where they are not refittable.
            features: What this TensorRT can do.
        """
        return cls(
            precision=precision,
            profile=profile,
            strip=strip and refittable,
            fp16=precision == "fp16" and not features.strongly_typed,
            refit=refittable and not features.individual_refit,
            refit_individual=refittable and features.individual_refit,
            tf32=precision == "tf32",  # elsewhere its errors of 1e-3 would hide a wrong refit (RefitObserver, 11.3)
            strongly_typed=features.strongly_typed,
            explicit_batch=features.explicit_batch,
            native_instancenorm=features.native_instancenorm,
            tactic_sources=("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS") if features.narrow_tactics else None,
            profiling_verbosity="LAYER_NAMES_ONLY",
            # A context asks for the memory that the frame needs, not the largest one of the profile.
            preview_features=("RUNTIME_ACTIVATION_RESIZE_10_10",) if features.resizes_memory else (),
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
            "preview features": list(self.preview_features),
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> BuildSettings:
        """Reads what `to_json` gives.

        Raises:
            ValueError: A value is not one of a build; KeyError and TypeError likewise.
        """
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
            preview_features=tuple(map(str, fields["preview features"])),
        )


@dataclass(frozen=True)
class PlanIdentity:
    """What a plan was built from and for. Every field is in the plan's header.

    Attributes:
        kind: Name of the kind of plan, such as "refit" (see engines/trt/network.py).
        graph: Digest of the graph that TensorRT reads, without the weights' numbers, and of how the weights are made.
        settings: What the builder gets besides the graph.
        members: Digests of the members' files where the plan holds their numbers; else empty: a "refit" plan serves every
            family on the same graph.
        library: Name of the TensorRT library, a key of `engines.trt.library.MODULE_NAMES`.
        version: Its version.
        gpu: Name of the GPU; empty for a plan that runs on every GPU of its compute capabilities.
        capabilities: Compute capabilities, (major, minor), that it runs on; one where `gpu` is not empty.
    """

    kind: str
    graph: str
    settings: BuildSettings
    members: tuple[str, ...]
    library: str
    version: str
    gpu: str
    capabilities: tuple[Capability, ...]

    @classmethod
    def for_graph(
        cls,
        bundle: Bundle,
        network_class: type[Network],
        lowered: LoweredGraph,
        library: Library,
        precision: str,
        profile: Profile,
        strip: bool = False,
        device: int = 0,
        capabilities: tuple[Capability, ...] = (),
    ) -> PlanIdentity:
        """Makes what a plan of this graph and these choices must be for, here and now.

        Args:
            bundle: The bundle.
            network_class: The kind of plan.
            lowered: The bundle's graph, lowered for this kind and precision.
            library: The library that builds and runs it.
            precision: "fp32" or "fp16".
            profile: Shapes of the input.
            strip: Leave weights out of the plan.
            device: The GPU's number as the driver counts.
            capabilities: Compute capabilities to build for; empty for that of the GPU.

        Raises:
            UnavailableError: There is no such GPU.
            UsageError: Capabilities are given, and the library builds for one GPU model.
        """
        answer = driver.query_driver()
        if isinstance(answer, str):
            raise UnavailableError(f"{LIBRARY_TITLES[library.name]} cannot run here: {answer}.")
        if device >= len(answer.devices):
            raise UnavailableError(f"There is no GPU number {device}; the driver sees {len(answer.devices)}, from 0.")
        gpu, capability = answer.devices[device]
        portable = library.features.portable_plans
        if capabilities and not portable:
            raise UsageError(f"{library.title} builds for the GPU of this machine; give --device its number.")
        graph = network_class.make_graph(lowered, len(bundle.members))
        return cls(
            kind=network_class.kind,
            graph=digest_lowered_graph(graph, lowered.recipes),
            settings=BuildSettings.choose(network_class.has_refittable_weights, precision, profile, strip, library.features),
            members=tuple(member.stored.sha256 for member in bundle.manifest.members) if network_class.holds_members else (),
            library=library.name,
            version=library.features.version,
            gpu="" if portable else gpu,
            capabilities=tuple(sorted(set(capabilities))) or (capability,),
        )

    def with_choices_of(self, built: PlanIdentity) -> PlanIdentity:
        """Makes the identity that a plan needs to run here, whatever its user chose for it.

        Args:
            built: The identity of a plan, whose profile, weights or not, and, if this GPU is among them, compute capabilities
                are taken over.
        """
        settings = replace(self.settings, profile=built.settings.profile, strip=built.settings.strip)
        among = not self.gpu and set(self.capabilities) <= set(built.capabilities)
        return replace(self, settings=settings, capabilities=built.capabilities if among else self.capabilities)

    @property
    def gpu_text(self) -> str:
        """The GPUs that it runs on, such as "NVIDIA H200 (9.0)"."""
        numbers = ", ".join(format_capability(one) for one in self.capabilities)
        return f"{self.gpu} ({numbers})" if self.gpu else f"GPUs of compute capability {numbers}"

    @property
    def library_text(self) -> str:
        """The library with its version, such as "TensorRT 10.16.1"."""
        return f"{LIBRARY_TITLES.get(self.library, self.library)} {self.version}"

    def to_json(self) -> dict[str, Any]:
        """Describes the identity under fixed keys."""
        return {
            "kind": self.kind,
            "graph": self.graph,
            "settings": self.settings.to_json(),
            "members": list(self.members),
            "library": self.library,
            "version": self.version,
            "gpu": self.gpu,
            "capabilities": [list(one) for one in self.capabilities],
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> PlanIdentity:
        """Reads what `to_json` gives.

        Raises:
            ValueError: It is something else; KeyError and TypeError likewise.
        """
        return cls(
            kind=str(fields["kind"]),
            graph=str(fields["graph"]),
            settings=BuildSettings.from_json(fields["settings"]),
            members=tuple(map(str, fields["members"])),
            library=str(fields["library"]),
            version=str(fields["version"]),
            gpu=str(fields["gpu"]),
            capabilities=tuple((int(major), int(minor)) for major, minor in fields["capabilities"]),
        )

    def describe_difference(self, required: PlanIdentity) -> str | None:
        """Says why a plan with this identity does not fit.

        Args:
            required: The identity that a plan must have.

        Returns:
            A clause that follows the plan's name and names the first field that differs; None where the plan fits.
        """
        for what, built, needed in (
            ("for the engine of kind", self.kind, required.kind),
            ("for", self.gpu_text, required.gpu_text),
            ("by", self.library_text, required.library_text),
        ):
            if built != needed:
                return f"was built {what} {escape_name(built)}, and this is {escape_name(needed)}"
        settings, required_settings = self.settings.to_json(), required.settings.to_json()
        for name, value in required_settings.items():
            if settings[name] != value:
                return f"was built with {name} {escape_name(settings[name])}, and here it is {escape_name(value)}"
        if self.members != required.members:
            return "was built from another bundle: the members differ"
        if self.graph != required.graph:
            graphs = f"its graph is {self.graph[:16]}, and this is {required.graph[:16]}"
            return f"was built from another bundle or another lowering: {graphs}"
        return None

    def check_matches(self, required: PlanIdentity, plan_name: str) -> None:
        """Refuses a plan whose identity is not the required one.

        Args:
            required: The identity that a plan must have.
            plan_name: The plan's name in the message.

        Raises:
            MismatchError: The identities differ; the message names the field.
        """
        difference = self.describe_difference(required)
        if difference is not None:
            raise MismatchError(f"{plan_name} {difference}; build it again with dni-deploy build.")


def _read_shape(sizes: Any) -> tuple[int, int, int, int]:
    batch, channels, height, width = map(int, sizes)
    return batch, channels, height, width
