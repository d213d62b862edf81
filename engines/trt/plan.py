"""A plan on disk: a built TensorRT engine behind the header that says what it was built from and for.

    magic line | length of the header, 8 bytes | header, JSON | SHA-256 of the engine | keyed digest of all before | engine

TensorRT loads an engine as it is, machine code included, so a plan is as good as a program. It is a derived file, whose head is
read alone where a plan is searched: one that this account did not write is passed over.
"""

from __future__ import annotations

import json
import logging
import os
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import BundleError, RefusedError, escape_name
from dni_deploy.utils.atomic_write import make_folder
from dni_deploy.utils.derived_file import DIGEST_BYTES, compute_keyed_digest
from dni_deploy.utils.private_file import open_private_file, write_private_file
from engines.lowering.gpu import LoweredGraph
from engines.profile import Profile
from engines.trt.library import load_library
from engines.trt.network import Network
from engines.trt.plan_identity import PlanIdentity

log = logging.getLogger(__name__)

PLAN_FORMAT = b"dni-deploy plan for tensorrt, version "

PLAN_VERSION = 4
"""Raise it where the header or what the builder makes of equal identities changes: plans of other versions are not read."""

PLAN_MAGIC = PLAN_FORMAT + f"{PLAN_VERSION}\n".encode()

MAX_HEADER_BYTES = 1 << 24

MAX_MAGIC_BYTES = 64
"""Of the first line that is looked at."""


@dataclass(frozen=True)
class OutputSample:
    """Some numbers of the output that ONNX Runtime expects of this plan with these members.

    Attributes:
        members: Digests of the members' files, and that of the calibration where the bundle has one.
        values: The numbers, float32 in base64.
    """

    members: tuple[str, ...]
    values: str

    @classmethod
    def from_values(cls, bundle: Bundle, values: NDArray[np.float32]) -> OutputSample:
        """Makes the sample of a bundle's expected output.

        Args:
            bundle: The bundle.
            values: float32 (S,), as `engines.verification.sample_output` gives them.
        """
        return cls(_digest_members(bundle), b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode())

    def values_for(self, bundle: Bundle) -> NDArray[np.float32] | None:
        """Returns the numbers, float32 (S,), or None where the bundle's members or statistics are others."""
        if self.members != _digest_members(bundle):
            return None
        return np.frombuffer(b64decode(self.values), "<f4").astype(np.float32)


@dataclass(frozen=True)
class PlanHeader:
    """What a plan was built from and for.

    Attributes:
        identity: The plan's identity, with the settings that it was built with.
        lowered: Digest of the lowered graph, which opening compares with the graph that it lowers.
        weights: Name, dtype and count of numbers of each weight that changes.
        sample: What opening compares the plan's first output with, from its verification; None before that.
    """

    identity: PlanIdentity
    lowered: str
    weights: tuple[tuple[str, str, int], ...]
    sample: OutputSample | None = None

    @property
    def precision(self) -> str:
        """The precision that the plan was built with, "fp32" or "fp16"."""
        return self.identity.settings.precision

    @property
    def profile(self) -> Profile:
        """The input shapes that the plan was built for."""
        return self.identity.settings.profile

    @property
    def key(self) -> str:
        """Sixteen hex digits that tell the plan from every other one of the bundle."""
        identity = [PLAN_VERSION, self.identity.to_json()]
        return sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

    def to_bytes(self) -> bytes:
        """Writes the header as JSON under fixed keys."""
        sample = None if self.sample is None else {"members": list(self.sample.members), "values": self.sample.values}
        fields = {
            "target": self.identity.to_json(),
            "lowered": self.lowered,
            "weights": [list(weight) for weight in self.weights],
            "sample": sample,
        }
        return json.dumps(fields, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> PlanHeader:
        """Reads what `to_bytes` gives."""
        fields = json.loads(data)
        sample = fields["sample"]
        return cls(
            identity=PlanIdentity.from_json(fields["target"]),
            lowered=str(fields["lowered"]),
            weights=tuple((str(name), str(dtype), int(count)) for name, dtype, count in fields["weights"]),
            sample=None if sample is None else OutputSample(tuple(sample["members"]), str(sample["values"])),
        )


@dataclass(frozen=True)
class Plan:
    """A plan in memory.

    Attributes:
        header: What it was built from and for.
        engine: The engine as TensorRT serialized it.
    """

    header: PlanHeader
    engine: bytes

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the engine, in hex: two plans of one identity may have other kernels, and other last bits."""
        return sha256(self.engine).hexdigest()


class PlanMatch(NamedTuple):
    """A plan that fits.

    Attributes:
        path: Where it is.
        identity: The identity that it has to have; its header said so, the rest of the file was not read.
        lowered: The bundle's graph as it was lowered for the comparison.
    """

    path: Path
    identity: PlanIdentity
    lowered: LoweredGraph


def _digest_members(bundle: Bundle) -> tuple[str, ...]:
    calibration = bundle.manifest.calibration
    extra = () if calibration is None else (calibration.sha256,)
    return (*(member.stored.sha256 for member in bundle.manifest.members), *extra)


def plan_path(bundle: Bundle, header: PlanHeader) -> Path:
    """Returns where the plan with this header is, or would be."""
    identity = header.identity
    return bundle.path / "plans" / f"{identity.library}-{identity.kind}-{header.precision}-{header.key}.plan"


def list_plan_files(bundle: Bundle, library: str = "tensorrt", kind: str = Network.kind) -> list[Path]:
    """Lists the files that have the name of a plan of this library and kind, whatever they hold; reads none."""
    return list((bundle.path / "plans").glob(f"{library}-{kind}-*.plan"))


def find_plan(
    bundle: Bundle,
    network_class: type[Network] = Network,
    precision: str | None = None,
    device: int = 0,
    library_name: str = "tensorrt",
) -> Path | None:
    """Finds the newest plan that fits, as `search_plans` does; None where there is none."""
    match, _ = search_plans(bundle, network_class, precision, device, library_name)
    return None if match is None else match.path


def search_plans(
    bundle: Bundle,
    network_class: type[Network] = Network,
    precision: str | None = None,
    device: int = 0,
    library_name: str = "tensorrt",
) -> tuple[PlanMatch | None, str | None]:
    """Searches the bundle's plans for the newest that fits the bundle, this GPU and this library; reads their headers alone.

    The library is imported, and the graph lowered, only where there is a plan to compare with.

    Args:
        bundle: The bundle.
        network_class: The kind of plan.
        precision: "fp32" or "fp16"; None for any.
        device: The GPU's number as the driver counts.
        library_name: The library that runs the plan, a key of `engines.trt.library.MODULE_NAMES`.

    Returns:
        The newest plan that fits, or None; and why the newest of the others does not fit, a clause that begins with its name
        and names what differs, or None where there is no other.

    Raises:
        UnavailableError: There is no such GPU.
        BundleError: The bundle's graph is damaged.
        EngineError: The graph cannot be lowered.
    """
    graphs: dict[str, LoweredGraph] = {}  # by precision of the graph, so that each is lowered once
    required: dict[str, PlanIdentity] = {}  # by precision of the plan
    fitting: list[tuple[int, Path, PlanMatch]] = []
    rejected: list[tuple[int, Path, str]] = []
    for path, changed, header in _read_headers(list_plan_files(bundle, library_name, network_class.kind)):
        if isinstance(header, str):
            if precision is None or path.name.startswith(f"{library_name}-{network_class.kind}-{precision}-"):
                rejected.append((changed, path, header))
            continue
        settings = header.identity.settings
        if precision not in (None, settings.precision):
            continue
        library = load_library(library_name)
        graph_precision = library.features.graph_precision(settings.precision)
        if graph_precision not in graphs:
            graphs[graph_precision] = network_class.lower(bundle, graph_precision)
        lowered = graphs[graph_precision]
        if settings.precision not in required:
            required[settings.precision] = PlanIdentity.for_graph(
                bundle, network_class, lowered, library, settings.precision, settings.profile, device=device
            )
        identity = required[settings.precision].with_choices_of(header.identity)
        difference = header.identity.describe_difference(identity)
        if difference is None:
            fitting.append((changed, path, PlanMatch(path, identity, lowered)))
        else:
            rejected.append((changed, path, difference))
    for _, path, reason in rejected:
        log.info("plan rejected: %s %s", escape_name(path.name), reason)
    match = max(fitting, key=lambda entry: entry[:2])[2] if fitting else None
    log.info("plan found: %s", escape_name(match.path)) if match else log.info("no plan fits for %s", library_name)
    newest = max(rejected, default=None)
    return match, None if newest is None else f"{escape_name(newest[1].name)} {newest[2]}"


def _read_headers(paths: list[Path]) -> Iterator[tuple[Path, int, PlanHeader | str]]:
    """Yields path, time of change in ns and header of each plan, or of one that is passed over the clause that says why."""
    for path in paths:
        try:
            with open_private_file(path, "a plan") as file:
                head = _read_head(file)
                yield path, os.fstat(file.fileno()).st_mtime_ns, head if isinstance(head, str) else head[0]
        except (OSError, RefusedError) as error:
            log.info("plan passed over: %s", escape_name(error))


def _read_head(file: IO[bytes]) -> tuple[PlanHeader, bytes] | str:
    """Reads what stands before the engine: the header and the engine's SHA-256, or a clause that says why it is not believed."""
    magic = file.readline(MAX_MAGIC_BYTES)
    if magic != PLAN_MAGIC:
        return _describe_version(magic) or "is not a plan that this version of dni-deploy wrote"
    prefix = file.read(8)
    length = min(int.from_bytes(prefix, "little"), MAX_HEADER_BYTES)
    header, engine_digest, keyed_digest = file.read(length), file.read(DIGEST_BYTES), file.read(DIGEST_BYTES)
    if keyed_digest != compute_keyed_digest(magic, prefix, header, engine_digest):
        return "is damaged, or was not written by this account"
    return PlanHeader.from_bytes(header), engine_digest


def write_plan(bundle: Bundle, plan: Plan, *, force: bool = False) -> Path:
    """Writes the plan into the bundle, readable and writable by its owner alone.

    Args:
        bundle: The bundle.
        plan: The plan.
        force: Replace a plan of the same identity.

    Returns:
        The plan's path.

    Raises:
        UsageError: The plan exists, and force is off.
        LimitError: There is no room.
        InputError: The folder cannot be written.
    """
    path = plan_path(bundle, plan.header)
    header = plan.header.to_bytes()
    head = (PLAN_MAGIC, len(header).to_bytes(8, "little"), header, sha256(plan.engine).digest())
    with make_folder(path.parent):
        write_private_file(path, (*head, compute_keyed_digest(*head), plan.engine), force=force)
    return path


def read_plan(path: Path, identity: PlanIdentity) -> Plan:
    """Reads a plan, and checks it before TensorRT sees a byte of it.

    Args:
        path: The plan's path.
        identity: The identity that it has to have.

    Raises:
        RefusedError: Somebody else may have written it.
        BundleError: It is not a plan, of another version, or damaged.
        MismatchError: It is for another graph, GPU or TensorRT, or was built with other settings.
    """
    try:
        with open_private_file(path, "a plan", "build your own with dni-deploy build") as file:
            head = _read_head(file)
            engine = file.read(os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        raise BundleError(f"{escape_name(path)} does not exist; build it with dni-deploy build.") from None
    except OSError as error:
        raise BundleError(f"{escape_name(path)} cannot be read ({error.strerror}).") from None
    if isinstance(head, str):
        raise BundleError(f"{escape_name(path)} {head}; build it again with dni-deploy build --force.")
    header, engine_digest = head
    plan = Plan(header, engine)
    if plan.digest != engine_digest.hex():
        raise BundleError(f"{escape_name(path)} is damaged; build it again with dni-deploy build --force.")
    header.identity.check_matches(identity, escape_name(path))
    return plan


def _describe_version(line: bytes) -> str | None:
    """Says in a clause that a plan with this first line is of another version; None for anything else."""
    number = line.removeprefix(PLAN_FORMAT).rstrip(b"\n")
    if not line.startswith(PLAN_FORMAT) or not number.isdigit() or int(number) == PLAN_VERSION:
        return None
    return f"was built by {'an older' if int(number) < PLAN_VERSION else 'a newer'} version of dni-deploy"
