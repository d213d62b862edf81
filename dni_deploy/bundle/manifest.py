"""Manifest: what a bundle holds, with the SHA-256 of every file and of itself."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NoReturn

from dni_deploy.errors import BundleError, LimitError, RefusedError, escape_name
from dni_deploy.signature import Signature

MANIFEST_FORMAT = "dni-deploy bundle"
MANIFEST_SCHEMA_VERSION = 1
MANIFEST_FILE_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 4 << 20
"""Bytes; about 200 for each tensor of the largest network we know (8,000 tensors)."""
MAX_JSON_DEPTH = 32
MAX_MEMBERS = 16
ATTACHMENT_FIELDS = ("recalibration", "slider", "slider_about")
"""What may be added to a bundle after its export; absent from the JSON where it is not there (extras.py)."""
MAX_SLIDER_POINTS = 1024
"""Knots; a slider has far fewer positions that anybody could tell apart."""
FILE_NAME_PATTERN = re.compile(r"[A-Za-z0-9._-]+-([0-9a-f]{16})\.(onnx|safetensors|bin)", re.ASCII)
MEMBER_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
SHA256_PATTERN = re.compile(r"[0-9a-f]{64}", re.ASCII)
_JSON_TOKEN_PATTERN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


@dataclass(frozen=True)
class StoredFile:
    """A file of the bundle: its name in the folder (never a path), its SHA-256 in hex, its size in bytes."""

    file: str
    sha256: str
    size: int

    @classmethod
    def from_digest(cls, stem: str, suffix: str, digest: str, size: int) -> StoredFile:
        """The content-addressed name: stem, the first 16 hex digits, suffix."""
        return cls(f"{stem}-{digest[:16]}.{suffix}", digest, size)

    def to_json(self) -> dict[str, Any]:
        return {"file": self.file, "sha256": self.sha256, "size": self.size}

    @classmethod
    def from_json(cls, fields: object, where: str, suffix: str) -> StoredFile:
        """Raises RefusedError on any name that is not one of ours, so there is no path to follow."""
        read = _require_fields(fields, where, {"file", "sha256", "size"})
        name, digest = _require_text(read["file"], f"{where}.file"), _require_text(read["sha256"], f"{where}.sha256")
        match = FILE_NAME_PATTERN.fullmatch(name)
        if match is None or match[2] != suffix:
            raise RefusedError(
                f"The manifest's {where} names the file {escape_name(name)!r}, which is not a name that a bundle may hold."
            )
        if SHA256_PATTERN.fullmatch(digest) is None or digest[:16] != match[1]:
            raise BundleError(
                f"The manifest's {where} has a SHA-256 that does not go with the file name {escape_name(name)!r}."
            )
        return cls(name, digest, _require_count(read["size"], f"{where}.size", 1 << 48))


@dataclass(frozen=True)
class MemberEntry:
    """One member: its file, the name of the checkpoint it was read from, that file's SHA-256, and its float dtypes."""

    name: str
    stored: StoredFile
    source: str
    source_sha256: str
    dtype: str

    def to_json(self) -> dict[str, Any]:
        about = {"name": self.name, "source": self.source, "source_sha256": self.source_sha256, "dtype": self.dtype}
        return {**about, **self.stored.to_json()}

    @classmethod
    def from_json(cls, fields: object, where: str) -> MemberEntry:
        read = _require_fields(fields, where, {"name", "source", "source_sha256", "dtype", "file", "sha256", "size"})
        name = _require_text(read["name"], f"{where}.name")
        if MEMBER_NAME_PATTERN.fullmatch(name) is None:
            raise BundleError(f"The manifest's {where} is called {escape_name(name)!r}, which is not a member's name.")
        stored = StoredFile.from_json({key: read[key] for key in ("file", "sha256", "size")}, where, "safetensors")
        rest = (_require_text(read[key], f"{where}.{key}") for key in ("source", "source_sha256", "dtype"))
        return cls(name, stored, *rest)


@dataclass(frozen=True)
class WeightEntry:
    """A blended initializer of the graph: its name, which is the state-dict key, and its shape."""

    name: str
    shape: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, fields: object, where: str) -> WeightEntry:
        read = _require_fields(fields, where, {"name", "shape"})
        shape = tuple(
            _require_count(size, f"{where}.shape", 1 << 31) for size in _require_list(read["shape"], f"{where}.shape")
        )
        return cls(_require_text(read["name"], f"{where}.name"), shape)


@dataclass(frozen=True)
class Manifest:
    """The bundle's table of contents.

    architecture  its name, as in `--arch`.
    signature     what goes in and comes out.
    opset         of the graph's default domain.
    members       in family order, 2 to 16.
    graph         the ONNX file; its weights are named by state-dict keys.
    weights_file  float32 weights of the first member for the graph, where the member's own file has another dtype; or None.
    weights       the blended initializers in graph order.
    unused        float keys that the network's forward never reads; blended in checkpoints, absent from the graph.
    tied          name -> the name it shares its values with.
    graph_facts   how the graph came to be: versions, the probe's error.
    recalibration BatchNorm statistics of blends, re-estimated on pictures (recalibration.py); or None.
    slider        (position, alpha) knots, each number 0 to 1, of a slider with equal perceived steps; or None.
    slider_about  what that slider was measured on and how even it came out; free form, for people. None without, never alone.
    """

    architecture: str
    signature: Signature
    opset: int
    members: tuple[MemberEntry, ...]
    graph: StoredFile
    weights: tuple[WeightEntry, ...]
    weights_file: StoredFile | None = None
    unused: tuple[str, ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    graph_facts: Mapping[str, Any] = field(default_factory=dict)
    recalibration: StoredFile | None = None
    slider: tuple[tuple[float, float], ...] | None = None
    slider_about: Mapping[str, Any] | None = None

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """Every file beside the manifest itself."""
        extra = tuple(stored for stored in (self.weights_file, self.recalibration) if stored is not None)
        return (self.graph, *extra, *(member.stored for member in self.members))

    def to_bytes(self) -> bytes:
        """JSON, keys sorted: the same manifest gives the same bytes. Raises LimitError beyond MAX_MANIFEST_BYTES.

        `manifest_sha256` is that of the same bytes without this field, so that a changed manifest is noticed too.
        """
        document = {
            "format": MANIFEST_FORMAT,
            "version": MANIFEST_SCHEMA_VERSION,
            "architecture": self.architecture,
            "signature": self.signature.to_json(),
            "opset": self.opset,
            "members": [member.to_json() for member in self.members],
            "graph": self.graph.to_json(),
            "weights_file": None if self.weights_file is None else self.weights_file.to_json(),
            "weights": [weight.to_json() for weight in self.weights],
            "unused": list(self.unused),
            "tied": dict(self.tied),
            "graph_facts": dict(self.graph_facts),
        }
        if self.recalibration is not None:
            document["recalibration"] = self.recalibration.to_json()
        if self.slider is not None:
            document["slider"] = [list(knot) for knot in self.slider]
        if self.slider_about is not None:
            document["slider_about"] = dict(self.slider_about)
        document["manifest_sha256"] = sha256(_to_canonical_json(document)).hexdigest()
        data = _to_canonical_json(document)
        if len(data) > MAX_MANIFEST_BYTES:
            raise LimitError(
                f"The manifest would be {len(data)} bytes, more than {MAX_MANIFEST_BYTES}: too many tensors for one bundle."
            )
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Read and check every field.

        Raises BundleError (not ours, damaged, another version), RefusedError (a file name that is not of a bundle),
        LimitError (over MAX_MANIFEST_BYTES).
        """
        document = _parse_json(data)
        if not isinstance(document, dict) or document.get("format") != MANIFEST_FORMAT:
            raise BundleError(f"The manifest is not that of a bundle: its 'format' is not {MANIFEST_FORMAT!r}.")
        version = document.get("version")
        if type(version) is not int or version != MANIFEST_SCHEMA_VERSION:
            raise BundleError(
                f"The bundle is of version {escape_name(version, 20)}, this program reads version {MANIFEST_SCHEMA_VERSION}; "
                "export it again, or use the program that wrote it."
            )
        wanted = {"format", "version", "manifest_sha256", *cls.__dataclass_fields__}
        read = _require_fields(
            document, "top level", wanted - set(ATTACHMENT_FIELDS) | (set(ATTACHMENT_FIELDS) & set(document))
        )
        members = _require_list(read["members"], "members")
        if not 2 <= len(members) <= MAX_MEMBERS:
            raise BundleError(f"The manifest has {len(members)} members; a family has 2 to {MAX_MEMBERS}.")
        names = _require_list(read["unused"], "unused")
        tied = _require_fields(read["tied"], "tied")
        manifest = cls(
            architecture=_require_text(read["architecture"], "architecture"),
            signature=_parse_signature(read["signature"]),
            opset=_require_count(read["opset"], "opset", 1 << 15),
            members=tuple(MemberEntry.from_json(entry, f"members[{index}]") for index, entry in enumerate(members)),
            graph=StoredFile.from_json(read["graph"], "graph", "onnx"),
            weights=tuple(
                WeightEntry.from_json(entry, f"weights[{index}]")
                for index, entry in enumerate(_require_list(read["weights"], "weights"))
            ),
            weights_file=None
            if read["weights_file"] is None
            else StoredFile.from_json(read["weights_file"], "weights_file", "bin"),
            unused=tuple(_require_text(name, f"unused[{index}]") for index, name in enumerate(names)),
            tied={name: _require_text(other, f"tied[{escape_name(name)!r}]") for name, other in tied.items()},
            graph_facts=_require_fields(read["graph_facts"], "graph_facts"),
            recalibration=StoredFile.from_json(read["recalibration"], "recalibration", "safetensors")
            if "recalibration" in read
            else None,
            slider=parse_slider_points(read["slider"]) if "slider" in read else None,
            slider_about=_require_fields(read["slider_about"], "slider_about") if "slider_about" in read else None,
        )
        if manifest.slider is None and manifest.slider_about is not None:
            raise BundleError("The manifest's slider_about tells of a slider, and there is none.")
        _refuse_duplicates([member.name for member in manifest.members], "members")
        _refuse_duplicates([stored.file for stored in manifest.files], "files")
        _refuse_duplicates([weight.name for weight in manifest.weights] + list(manifest.unused), "weights")
        body = {key: value for key, value in read.items() if key != "manifest_sha256"}
        if sha256(_to_canonical_json(body)).hexdigest() != read["manifest_sha256"] or _to_canonical_json(read) != data:
            raise BundleError("The manifest does not fit its own SHA-256: it was changed or damaged; copy or export it again.")
        return manifest


def parse_slider_points(value: object) -> tuple[tuple[float, float], ...]:
    """The knots of a slider from JSON; what they mean, the slider's own noun checks. Raises BundleError."""
    knots = _require_list(value, "slider")
    if not 2 <= len(knots) <= MAX_SLIDER_POINTS:
        raise BundleError(f"The manifest's slider has {len(knots)} knots; a slider has 2 to {MAX_SLIDER_POINTS}.")
    made = []
    for index, knot in enumerate(knots):
        pair = _require_list(knot, f"slider[{index}]")
        # Not `isinstance`: true and false are whole numbers to Python.
        if len(pair) != 2 or not all(type(number) in (int, float) and 0 <= number <= 1 for number in pair):
            raise BundleError(
                f"The manifest's slider[{index}] is {escape_name(knot, 40)}, not a position and an alpha, each 0 to 1."
            )
        made.append((float(pair[0]), float(pair[1])))
    return tuple(made)


def _to_canonical_json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, indent=2, allow_nan=False).encode("ascii") + b"\n"


def _parse_json(data: bytes) -> object:
    if len(data) > MAX_MANIFEST_BYTES:
        raise LimitError(f"The manifest is {len(data)} bytes; more than {MAX_MANIFEST_BYTES} are not read.")
    depth = 0
    for token in _JSON_TOKEN_PATTERN.finditer(data):  # the parser itself would recurse, and how far differs between Pythons
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(token[0], 0)
        if depth > MAX_JSON_DEPTH:
            raise BundleError(f"The manifest is nested deeper than {MAX_JSON_DEPTH} levels.")
    try:
        document: object = json.loads(
            data.decode("utf-8"),
            parse_constant=_reject_constant,
            parse_float=_parse_finite_float,
            parse_int=_parse_short_int,
            object_pairs_hook=_make_unique_dict,
        )
    except UnicodeDecodeError:
        raise BundleError("The manifest is not UTF-8 text; it is damaged or not that of a bundle.") from None
    except BundleError:
        raise
    except (ValueError, RecursionError) as error:
        raise BundleError(f"The manifest is not whole JSON ({escape_name(error, 80)}); it is damaged or cut.") from None
    return document


def _reject_constant(word: str) -> NoReturn:
    raise BundleError(f"The manifest has {word}, which is not a JSON number.")


def _parse_finite_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise BundleError(f"The manifest has the number {escape_name(digits, 20)}, which is too large.")
    return number


def _parse_short_int(digits: str) -> int:
    if len(digits) > 20:
        raise BundleError(f"The manifest has a whole number of {len(digits)} digits.")
    return int(digits)


def _make_unique_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) != len(pairs):
        _refuse_duplicates([key for key, _ in pairs], "an object")
    return read


def _refuse_duplicates(names: list[str], where: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BundleError(f"The manifest names {escape_name(name)!r} twice in {where}.")
        seen.add(name)


def _require_fields(value: object, where: str, names: set[str] | None = None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BundleError(f"The manifest's {where} is not an object.")
    if names is not None and set(value) != names:
        unknown, missing = sorted(set(value) - names), sorted(names - set(value))
        what = f"has the unknown field {escape_name(unknown[0])!r}" if unknown else f"lacks the field {missing[0]!r}"
        raise BundleError(f"The manifest's {where} {what}.")
    return value


def _require_list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise BundleError(f"The manifest's {where} is not a list.")
    return value


def _require_text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise BundleError(f"The manifest's {where} is not text.")
    return value


def _require_count(value: object, where: str, limit: int) -> int:
    if type(value) is not int or not 0 <= value < limit:
        raise BundleError(f"The manifest's {where} is {escape_name(value, 40)}, not a whole number from 0 to {limit - 1}.")
    return value


def _parse_signature(fields: object) -> Signature:
    try:
        return Signature.from_json(fields)
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError("The manifest's 'signature' has a value of the wrong type.") from None
