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
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import BundleError, RefusedError, shown
from dni_deploy.utils.atomic_write import publish_file
from engines.profile import Profile
from engines.trt.target import Target

MAGIC = b"dni-deploy plan for tensorrt, version 1\n"
HEADER_LIMIT = 1 << 24


@dataclass(frozen=True)
class Sample:
    """Some numbers of the output that ONNX Runtime expects of this plan with these members (their files' digests).

    Where the bundle has re-estimated BatchNorm statistics, their file's digest is the last one.

    values: float32 in base64.
    """

    members: tuple[str, ...]
    values: str

    @classmethod
    def of(cls, bundle: Bundle, values: NDArray[np.float32]) -> Sample:
        return cls(_members(bundle), b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode())

    def values_for(self, bundle: Bundle) -> NDArray[np.float32] | None:
        """float32 (S,), or None where the bundle's members are others."""
        if self.members != _members(bundle):
            return None
        return np.frombuffer(b64decode(self.values), "<f4").astype(np.float32)


@dataclass(frozen=True)
class Header:
    """target: what it fits. lowered: digest of the graph that TensorRT got. weights: name, type and count of each that changes.

    sample: what opening compares the plan's first output with, from its verification; None before that.
    """

    target: Target
    precision: str
    profile: Profile
    strip: bool
    lowered: str
    weights: tuple[tuple[str, str, int], ...]
    sample: Sample | None = None

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Header:
        """Raises ValueError, KeyError or TypeError where it is none."""
        fields = json.loads(data)
        target, profile, sample = fields["target"], fields["profile"], fields["sample"]
        target["members"], target["capability"] = tuple(target["members"]), tuple(target["capability"])
        return cls(
            target=Target(**target),
            precision=str(fields["precision"]),
            profile=Profile(*(_shape(profile[name]) for name in ("smallest", "tuned", "largest"))),
            strip=bool(fields["strip"]),
            lowered=str(fields["lowered"]),
            weights=tuple((str(name), str(dtype), int(count)) for name, dtype, count in fields["weights"]),
            sample=None if sample is None else Sample(tuple(sample["members"]), str(sample["values"])),
        )

    @property
    def key(self) -> str:
        """Sixteen hex digits that tell it from every other plan of the bundle."""
        told = asdict(self)
        del told["weights"], told["sample"]  # the lowered graph has the first, and the second comes later
        return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Plan:
    """A header, and the serialized engine that belongs to it."""

    header: Header
    engine: bytes


def _members(bundle: Bundle) -> tuple[str, ...]:
    recalibration = bundle.manifest.recalibration
    extra = () if recalibration is None else (recalibration.sha256,)
    return (*(member.stored.sha256 for member in bundle.manifest.members), *extra)


def _shape(sizes: Any) -> tuple[int, int, int, int]:
    batch, channels, height, width = map(int, sizes)
    return batch, channels, height, width


def plan_path(bundle: Bundle, header: Header) -> Path:
    """Where the plan with this header is, or would be."""
    return bundle.path / "plans" / f"tensorrt-{header.target.kind}-{header.precision}-{header.key}.plan"


def find_plan(bundle: Bundle, kind: str, precision: str | None = None, device: int = 0) -> Path | None:
    """The bundle's newest plan of this kind (and precision) for this GPU and this TensorRT, or None. Not read but for its header.

    TensorRT is imported only where there is a plan to compare with it; the driver must have been asked before.
    """
    paths = list((bundle.path / "plans").glob(f"tensorrt-{kind}-*.plan"))
    if not paths:
        return None
    target = Target.of(bundle, kind, device)
    fitting = [
        (changed, path)
        for path, changed, header in _headers(paths)
        if header.target == target and precision in (None, header.precision)
    ]
    return max(fitting)[1] if fitting else None


def _headers(paths: list[Path]) -> Iterator[tuple[Path, int, Header]]:
    """Path, time of change and header of each that has one."""
    for path in paths:
        try:
            descriptor = _open(path)
        except OSError:
            continue
        with os.fdopen(descriptor, "rb") as file:
            try:
                if file.read(len(MAGIC)) != MAGIC:
                    continue
                length = int.from_bytes(file.read(8), "little")
                if length <= HEADER_LIMIT:
                    yield path, os.fstat(file.fileno()).st_mtime_ns, Header.from_bytes(file.read(length))
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                continue


def write_plan(bundle: Bundle, plan: Plan, *, force: bool = False) -> Path:
    """Write the plan, readable and writable by us alone. Raises UsageError (exists), LimitError (no room), InputError."""
    path = plan_path(bundle, plan.header)
    path.parent.mkdir(exist_ok=True)
    header = plan.header.to_bytes()
    with publish_file(path, force=force) as temporary:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        try:
            with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(MAGIC + len(header).to_bytes(8, "little") + header + _digest(header, plan.engine))
                file.write(plan.engine)
        except OSError as error:  # write and close do not name the file themselves
            raise OSError(error.errno, error.strerror, os.fspath(temporary)) from error
    return path


def read_plan(path: Path, target: Target) -> Plan:
    """The plan at this path, checked before TensorRT sees a byte of it.

    Raises RefusedError (somebody else may have written it), BundleError (not a plan, or damaged), MismatchError (it is for
    another graph, GPU or TensorRT).
    """
    try:
        descriptor = _open(path)
    except FileNotFoundError:
        raise BundleError(f"{shown(path)} does not exist; build it with dni-deploy build.") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise RefusedError(f"{shown(path)} is a link or no plain file, and a plan is a program: refused.") from None
        raise BundleError(f"{shown(path)} cannot be read ({error.strerror}).") from None
    with os.fdopen(descriptor, "rb") as file:
        _check_ownership(path, os.fstat(file.fileno()))
        data = file.read()
    if not data.startswith(MAGIC):
        raise BundleError(f"{shown(path)} is not a plan that this version of dni-deploy wrote; remove it and build again.")
    start = len(MAGIC) + 8
    length = int.from_bytes(data[len(MAGIC) : start], "little")
    header, digest, engine = data[start : start + length], data[start + length :][:32], data[start + length + 32 :]
    if length > HEADER_LIMIT or digest != _digest(header, engine):
        raise BundleError(f"{shown(path)} is damaged; build it again with dni-deploy build --force.")
    try:
        plan = Plan(Header.from_bytes(header), engine)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BundleError(f"{shown(path)} is damaged; build it again with dni-deploy build --force.") from None
    plan.header.target.check(target, shown(path))
    return plan


def _open(path: Path) -> int:
    """Open for reading, never a link and never waiting on a pipe."""
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    return os.open(path, flags)


def _check_ownership(path: Path, about: os.stat_result) -> None:
    """Of the open file, so that it cannot be exchanged in between."""
    if not stat.S_ISREG(about.st_mode):
        raise RefusedError(f"{shown(path)} is not a plain file, and a plan is a program: refused.")
    if not hasattr(os, "geteuid"):  # Windows has other means, and a profile folder of one's own
        return
    if about.st_uid not in (os.geteuid(), 0):
        raise RefusedError(
            f"{shown(path)} belongs to user {about.st_uid}, and a plan is a program: refused; build your own with dni-deploy build."
        )
    if about.st_mode & 0o022:
        raise RefusedError(
            f"{shown(path)} can be written by others (mode {stat.S_IMODE(about.st_mode):04o}), and a plan is a program: refused; "
            "build it again, or, if you trust it, chmod 600."
        )


def _digest(header: bytes, engine: bytes) -> bytes:
    digest = sha256(header)
    digest.update(engine)
    return digest.digest()
