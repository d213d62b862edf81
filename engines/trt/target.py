"""Target: what a plan fits: one bundle's graph, one kind of GPU, one TensorRT, and our own code as it was."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EnvironmentProblem, MismatchError, shown
from engines.cuda import driver
from engines.source import fingerprint

SOURCE = ("lowering", "recipes.py", "graphs.py", "trt/builder.py")
"""Our own code that decides what is in a plan."""


@dataclass(frozen=True)
class Target:
    """kind: "refit", "inputs", "graph" or "constant". graph and names: digests.

    members  digests of the members' files, and of re-estimated BatchNorm statistics, where the plan holds their numbers; else empty: a
             "refit" or "inputs" plan serves every family on the same graph.
    """

    kind: str
    graph: str
    names: str
    members: tuple[str, ...]
    tensorrt: str
    gpu: str
    capability: tuple[int, int]
    source: str

    @classmethod
    def of(cls, bundle: Bundle, kind: str, device: int = 0) -> Target:
        """What a plan of this kind must be for, here and now. Raises EnvironmentProblem where there is no such GPU."""
        found = driver.ask()
        if isinstance(found, str):
            raise EnvironmentProblem(f"TensorRT cannot run here: {found}.")
        if device >= len(found.devices):
            raise EnvironmentProblem(f"There is no GPU number {device}; the driver sees {len(found.devices)}, from 0.")
        import tensorrt  # late: it takes a second, and most bundles have no plan at all

        manifest = bundle.manifest
        held = [member.stored for member in manifest.members] if kind in ("graph", "constant") else []
        if kind == "graph" and manifest.recalibration is not None:
            held.append(manifest.recalibration)
        return cls(
            kind=kind,
            graph=manifest.graph.sha256,
            names=sha256("\0".join(bundle.weight_names).encode()).hexdigest(),
            members=tuple(stored.sha256 for stored in held),
            tensorrt=str(tensorrt.__version__),
            gpu=found.devices[device][0],
            capability=found.devices[device][1],
            source=fingerprint(*SOURCE),
        )

    @property
    def dotted(self) -> str:
        return ".".join(map(str, self.capability))

    def check(self, here: Target, plan: str) -> None:
        """Raises MismatchError where a plan for this target does not fit what is `here`; `plan` is its name in the message."""
        for what, one, other in (
            ("for the engine of kind", self.kind, here.kind),
            ("for the GPU", f"{self.gpu} ({self.dotted})", f"{here.gpu} ({here.dotted})"),
            ("by TensorRT", self.tensorrt, here.tensorrt),
        ):
            if one != other:
                raise MismatchError(
                    f"{plan} was built {what} {shown(one)}, and this is {shown(other)}; build it again with dni-deploy build."
                )
        if self != here:
            what = "another bundle" if self.source == here.source else "another version of dni-deploy"
            raise MismatchError(f"{plan} was built from {what}; build it again with dni-deploy build.")
