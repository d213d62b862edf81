"""Plan: a built TensorRT engine on disk, with the header that says what it was built from and for.

    magic line | length of the header, 8 bytes | header, JSON | SHA-256 of header and engine, 32 bytes | engine

TensorRT loads an engine as it is, machine code included, so a plan is as good as a program: it is refused where somebody else could
have written it (as ssh does with its keys), and where a byte has changed.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import BundleError, MismatchError, RefusedError, UnavailableError, escape_name
from dni_deploy.utils.atomic_write import write_file_atomically
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


FORMAT = b"dni-deploy plan for tensorrt, version "

VERSION = 2
"""Raise it where the header or what the builder makes of equal targets changes: plans of other versions are not read."""

PLAN_MAGIC = FORMAT + f"{VERSION}\n".encode()

MAX_HEADER_BYTES = 1 << 24

MAGIC_LIMIT = 64
"""Bytes of the longest first line that is looked at."""


@dataclass(frozen=True)
class OutputSample:
    """Some numbers of the output that ONNX Runtime expects of this plan with these members (their files' digests).

    Where the bundle has re-estimated BatchNorm statistics, their file's digest is the last one.

    values: float32 in base64.
    """

    members: tuple[str, ...]
    values: str

    @classmethod
    def from_values(cls, bundle: Bundle, values: NDArray[np.float32]) -> OutputSample:
        return cls(_member_digests(bundle), b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode())

    def values_for(self, bundle: Bundle) -> NDArray[np.float32] | None:
        """float32 (S,), or None where the bundle's members are others."""
        if self.members != _member_digests(bundle):
            return None
        return np.frombuffer(b64decode(self.values), "<f4").astype(np.float32)


@dataclass(frozen=True)
class PlanHeader:
    """What a plan was built from and for.

    Attributes:
        target: The plan's identity, with the settings that it was built with.
        lowered: Digest of the lowered graph, which opening compares with the graph that it lowers.
        weights: Name, type and count of each weight that changes.
        sample: What opening compares the plan's first output with, from its verification; None before that.
    """

    target: PlanIdentity
    lowered: str
    weights: tuple[tuple[str, str, int], ...]
    sample: OutputSample | None = None

    @property
    def precision(self) -> str:
        return self.target.settings.precision

    @property
    def profile(self) -> Profile:
        return self.target.settings.profile

    def to_bytes(self) -> bytes:
        """Writes the header as JSON under fixed keys."""
        sample = None if self.sample is None else {"members": list(self.sample.members), "values": self.sample.values}
        fields = {
            "target": self.target.to_json(),
            "lowered": self.lowered,
            "weights": [list(weight) for weight in self.weights],
            "sample": sample,
        }
        return json.dumps(fields, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> PlanHeader:
        """Raises ValueError, KeyError or TypeError where it is none."""
        fields = json.loads(data)
        sample = fields["sample"]
        return cls(
            target=PlanIdentity.from_json(fields["target"]),
            lowered=str(fields["lowered"]),
            weights=tuple((str(name), str(dtype), int(count)) for name, dtype, count in fields["weights"]),
            sample=None if sample is None else OutputSample(tuple(sample["members"]), str(sample["values"])),
        )

    @property
    def key(self) -> str:
        """Sixteen hex digits that tell it from every other plan of the bundle."""
        identity = [VERSION, self.target.to_json()]
        return sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Plan:
    """A header, and the serialized engine that belongs to it."""

    header: PlanHeader
    engine: bytes


def _member_digests(bundle: Bundle) -> tuple[str, ...]:
    recalibration = bundle.manifest.recalibration
    extra = () if recalibration is None else (recalibration.sha256,)
    return (*(member.stored.sha256 for member in bundle.manifest.members), *extra)


def plan_path(bundle: Bundle, header: PlanHeader) -> Path:
    """Where the plan with this header is, or would be."""
    return bundle.path / "plans" / f"tensorrt-{header.target.kind}-{header.precision}-{header.key}.plan"


def find_plan(bundle: Bundle, kind: str, precision: str | None = None, device: int = 0) -> Path | None:
    """The bundle's newest plan of this kind (and precision) for this GPU and this TensorRT, or None. Not read but for its header.

    As `search_plans`.
    """
    found, _ = search_plans(bundle, kind, precision, device)
    return None if found is None else found[0]


def search_plans(
    bundle: Bundle, kind: str, precision: str | None = None, device: int = 0
) -> tuple[tuple[Path, PlanIdentity] | None, str | None]:
    """Searches the bundle's plans for the newest that fits the bundle, this GPU and this TensorRT; reads their headers alone.

    TensorRT is imported, and the graph lowered, only where there is a plan to compare with; the driver must have been asked before.

    Args:
        bundle: The bundle.
        kind: Kind of the plan.
        precision: "fp32" or "fp16"; None for any.
        device: The GPU's number as the driver counts.

    Returns:
        The path of the newest plan that fits with the target that it has to have, or None; and why the newest of the others does
        not fit, a clause that begins with its name and names what differs, or None where there is no other.

    Raises:
        UnavailableError: There is no such GPU.
        BundleError: The bundle's graph is damaged.
        EngineError: The graph cannot be lowered.
    """
    paths = list((bundle.path / "plans").glob(f"tensorrt-{kind}-*.plan"))
    targets: dict[str, PlanIdentity] = {}  # by precision, so that the graph is lowered once for each
    fitting: list[tuple[int, Path, PlanIdentity]] = []
    rejected: list[tuple[int, Path, str]] = []
    for path, changed, header in _read_headers(paths):
        if isinstance(header, str):
            if precision is None or path.name.startswith(f"tensorrt-{kind}-{precision}-"):
                rejected.append((changed, path, header))
            continue
        settings = header.target.settings
        if precision not in (None, settings.precision):
            continue
        if settings.precision not in targets:
            targets[settings.precision] = PlanIdentity.for_bundle(bundle, kind, settings.precision, device=device)
        target = targets[settings.precision].with_choices(settings.profile, settings.strip)
        difference = header.target.describe_difference(target)
        if difference is None:
            fitting.append((changed, path, target))
        else:
            rejected.append((changed, path, difference))
    found = max(fitting, key=lambda one: one[:2])[1:] if fitting else None
    reason = max(rejected)[1:] if rejected else None
    return found, None if reason is None else f"{escape_name(reason[0].name)} {reason[1]}"


def _read_headers(paths: list[Path]) -> Iterator[tuple[Path, int, PlanHeader | str]]:
    """Path, time of change and header of each that has one; of a plan of another version the clause that says so."""
    for path in paths:
        try:
            descriptor = _open_for_reading(path)
        except OSError:
            continue
        with os.fdopen(descriptor, "rb") as file:
            try:
                magic = file.readline(MAGIC_LIMIT)
                if magic != PLAN_MAGIC:
                    version = _describe_version(magic)
                    if version is not None:
                        yield path, os.fstat(file.fileno()).st_mtime_ns, version
                    continue
                length = int.from_bytes(file.read(8), "little")
                if length <= MAX_HEADER_BYTES:
                    yield path, os.fstat(file.fileno()).st_mtime_ns, PlanHeader.from_bytes(file.read(length))
            except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
                continue


def write_plan(bundle: Bundle, plan: Plan, *, force: bool = False) -> Path:
    """Write the plan, readable and writable by us alone. Raises UsageError (exists), LimitError (no room), InputError."""
    path = plan_path(bundle, plan.header)
    path.parent.mkdir(exist_ok=True)
    header = plan.header.to_bytes()
    with write_file_atomically(path, force=force) as temporary:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        try:
            with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(PLAN_MAGIC + len(header).to_bytes(8, "little") + header + _compute_digest(header, plan.engine))
                file.write(plan.engine)
        except OSError as error:  # write and close do not name the file themselves
            raise OSError(error.errno, error.strerror, os.fspath(temporary)) from error
    return path


def read_plan(path: Path, target: PlanIdentity) -> Plan:
    """The plan at this path, checked before TensorRT sees a byte of it.

    Raises RefusedError (somebody else may have written it), BundleError (not a plan, of another version, or damaged), MismatchError
    (it is for another graph, GPU or TensorRT, or was built with other settings).
    """
    try:
        descriptor = _open_for_reading(path)
    except FileNotFoundError:
        raise BundleError(f"{escape_name(path)} does not exist; build it with dni-deploy build.") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise RefusedError(f"{escape_name(path)} is a link or no plain file, and a plan is a program: refused.") from None
        raise BundleError(f"{escape_name(path)} cannot be read ({error.strerror}).") from None
    with os.fdopen(descriptor, "rb") as file:
        _check_ownership(path, os.fstat(file.fileno()))
        data = file.read()
    version = _describe_version(data[:MAGIC_LIMIT].partition(b"\n")[0])
    if version is not None:
        raise BundleError(f"{escape_name(path)} {version}; build it again with dni-deploy build.")
    if not data.startswith(PLAN_MAGIC):
        raise BundleError(
            f"{escape_name(path)} is not a plan that this version of dni-deploy wrote; remove it and build again."
        )
    start = len(PLAN_MAGIC) + 8
    length = int.from_bytes(data[len(PLAN_MAGIC) : start], "little")
    header, digest, engine = data[start : start + length], data[start + length :][:32], data[start + length + 32 :]
    if length > MAX_HEADER_BYTES or digest != _compute_digest(header, engine):
        raise BundleError(f"{escape_name(path)} is damaged; build it again with dni-deploy build --force.")
    try:
        plan = Plan(PlanHeader.from_bytes(header), engine)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise BundleError(f"{escape_name(path)} is damaged; build it again with dni-deploy build --force.") from None
    plan.header.target.check_matches(target, escape_name(path))
    return plan


def _describe_version(line: bytes) -> str | None:
    """Says that a plan with this first line is of another version, in a clause that follows its name; None for anything else."""
    number = line.removeprefix(FORMAT).rstrip(b"\n")
    if not line.startswith(FORMAT) or not number.isdigit() or int(number) == VERSION:
        return None
    return f"was built by {'an older' if int(number) < VERSION else 'a newer'} version of dni-deploy"


def _open_for_reading(path: Path) -> int:
    """Open for reading, never a link and never waiting on a pipe."""
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    return os.open(path, flags)


def _check_ownership(path: Path, status: os.stat_result) -> None:
    """Of the open file, so that it cannot be exchanged in between."""
    if not stat.S_ISREG(status.st_mode):
        raise RefusedError(f"{escape_name(path)} is not a plain file, and a plan is a program: refused.")
    if not hasattr(os, "geteuid"):  # Windows has other means, and a profile folder of one's own
        return
    if status.st_uid not in (os.geteuid(), 0):
        raise RefusedError(
            f"{escape_name(path)} belongs to user {status.st_uid}, and a plan is a program: refused; build your own with dni-deploy build."
        )
    if status.st_mode & 0o022:
        raise RefusedError(
            f"{escape_name(path)} can be written by others (mode {stat.S_IMODE(status.st_mode):04o}), and a plan is a program: refused; "
            "build it again, or, if you trust it, chmod 600."
        )


def _compute_digest(header: bytes, engine: bytes) -> bytes:
    digest = sha256(header)
    digest.update(engine)
    return digest.digest()
