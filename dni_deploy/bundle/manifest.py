"""What a bundle holds, with the SHA-256 of every file and of the manifest itself; docs/bundle-format.md has the format."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any

from dni_deploy.checkpoints.family import MAX_MEMBERS, MEMBER_NAME_PATTERN
from dni_deploy.errors import BundleError, LimitError, RefusedError, escape_name
from dni_deploy.signature import Signature

MANIFEST_FORMAT = "dni-deploy bundle"
MANIFEST_SCHEMA_VERSION = 1
MAX_MANIFEST_BYTES = 4 << 20
"""About 200 bytes for each tensor of the largest network that we know (8,000 tensors), with room to spare."""
MAX_JSON_DEPTH = 32
ATTACHMENT_FIELDS = ("calibration", "slider", "slider_about")
"""What may be added to a bundle after its export; absent from the JSON where it is None."""
MAX_SLIDER_POINTS = 1024
"""A slider has far fewer positions that anybody could tell apart."""
FILE_NAME_PATTERN = re.compile(r"[A-Za-z0-9._-]+-([0-9a-f]{16})\.(onnx|safetensors|bin)", re.ASCII)
SHA256_PATTERN = re.compile(r"[0-9a-f]{64}", re.ASCII)
_JSON_TOKEN_PATTERN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


@dataclass(frozen=True)
class StoredFile:
    """A file of the bundle.

    Attributes:
        file: Its name in the folder, never a path.
        sha256: Its SHA-256 in hex.
        size: Bytes.
    """

    file: str
    sha256: str
    size: int

    @classmethod
    def for_data(cls, stem: str, suffix: str, data: bytes) -> StoredFile:
        """Describes the file that these bytes become; its name has the first 16 digits of the SHA-256 after the stem."""
        digest = sha256(data).hexdigest()
        return cls(f"{stem}-{digest[:16]}.{suffix}", digest, len(data))

    @classmethod
    def from_json(cls, fields: object, where: str, suffix: str) -> StoredFile:
        """Reads an entry of a manifest.

        Args:
            fields: The entry.
            where: Its place in the manifest, for messages.
            suffix: The suffix that its name must have.

        Returns:
            The entry.

        Raises:
            RefusedError: The name is not one that a bundle may hold, so that there is no path to follow.
            BundleError: A field has another form.
        """
        entry = _require_fields(fields, where, {"file", "sha256", "size"})
        name, digest = _require_text(entry["file"], f"{where}.file"), _require_text(entry["sha256"], f"{where}.sha256")
        match = FILE_NAME_PATTERN.fullmatch(name)
        if match is None or match[2] != suffix:
            raise RefusedError(
                f"The manifest's {where} names the file {escape_name(name)!r}, which is not a name that a bundle may hold."
            )
        if SHA256_PATTERN.fullmatch(digest) is None or digest[:16] != match[1]:
            raise BundleError(
                f"The manifest's {where} has a SHA-256 that does not go with the file name {escape_name(name)!r}."
            )
        return cls(name, digest, _require_count(entry["size"], f"{where}.size", 1 << 48))


@dataclass(frozen=True)
class MemberEntry:
    """One member.

    Attributes:
        name: Its name in the family.
        stored: The file with its tensors.
        source: Name of the checkpoint from which it was read.
        source_sha256: SHA-256 of that checkpoint, in hex.
        dtype: Its float dtypes, joined by commas.
    """

    name: str
    stored: StoredFile
    source: str
    source_sha256: str
    dtype: str

    @classmethod
    def from_json(cls, fields: object, where: str) -> MemberEntry:
        """Reads an entry of a manifest; arguments and errors are those of StoredFile.from_json."""
        entry = _require_fields(fields, where, {"name", "source", "source_sha256", "dtype", "file", "sha256", "size"})
        name = _require_text(entry["name"], f"{where}.name")
        if MEMBER_NAME_PATTERN.fullmatch(name) is None:
            raise BundleError(f"The manifest's {where} is called {escape_name(name)!r}, which is not a member's name.")
        stored = StoredFile.from_json({key: entry[key] for key in ("file", "sha256", "size")}, where, "safetensors")
        return cls(name, stored, *(_require_text(entry[key], f"{where}.{key}") for key in ("source", "source_sha256", "dtype")))


@dataclass(frozen=True)
class WeightEntry:
    """A blended initializer of the graph.

    Attributes:
        name: Its name, which is the state-dict key.
        shape: Its shape.
    """

    name: str
    shape: tuple[int, ...]

    @classmethod
    def from_json(cls, fields: object, where: str) -> WeightEntry:
        """Reads an entry of a manifest; arguments and errors are those of StoredFile.from_json."""
        entry = _require_fields(fields, where, {"name", "shape"})
        sizes = _require_list(entry["shape"], f"{where}.shape")
        return cls(
            _require_text(entry["name"], f"{where}.name"),
            tuple(_require_count(size, f"{where}.shape", 1 << 31) for size in sizes),
        )


@dataclass(frozen=True)
class Manifest:
    """The bundle's table of contents.

    Attributes:
        architecture: Its name, as in `--arch`.
        signature: What goes into the network and comes out.
        opset: Version of the graph's default domain.
        members: 2 to 16, in family order.
        graph: The ONNX file; its weights are named by state-dict keys.
        weights: The blended initializers, in graph order.
        weights_file: float32 weights of the first member for the graph, where the member's own file has another dtype; or None.
        unused: Float keys that the network's forward never reads; blended in checkpoints, absent from the graph.
        tied: Name of a tensor -> name of the one with which it shares its values.
        graph_facts: How the graph was made: versions, the error of its verification.
        calibration: What blends have instead of blended tensors, fitted on images; or None.
        slider: (position, alpha) of each point, numbers from 0 to 1, of a slider with equal perceived steps; or None.
        slider_about: On what that slider was measured and how even it came out; free form, for people. None without a slider.
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
    calibration: StoredFile | None = None
    slider: tuple[tuple[float, float], ...] | None = None
    slider_about: Mapping[str, Any] | None = None

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """Every file beside the manifest itself."""
        optional = tuple(stored for stored in (self.weights_file, self.calibration) if stored is not None)
        return (self.graph, *optional, *(member.stored for member in self.members))

    def to_bytes(self) -> bytes:
        """Writes the manifest as JSON with sorted keys: the same manifest gives the same bytes.

        `manifest_sha256` is that of the same bytes without this field, so that a changed manifest is noticed, too.

        Raises:
            LimitError: It is larger than MAX_MANIFEST_BYTES.
        """
        document = {"format": MANIFEST_FORMAT, "version": MANIFEST_SCHEMA_VERSION, **asdict(self)}
        document["signature"] = self.signature.to_json()
        for member in document["members"]:
            member.update(member.pop("stored"))
        for name in ATTACHMENT_FIELDS:
            if document[name] is None:
                del document[name]
        document["manifest_sha256"] = sha256(_to_canonical_json(document)).hexdigest()
        data = _to_canonical_json(document)
        if len(data) > MAX_MANIFEST_BYTES:
            raise LimitError(
                f"The manifest would be {len(data)} bytes, more than {MAX_MANIFEST_BYTES}: too many tensors for one bundle."
            )
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Reads a manifest and checks every field.

        Raises:
            BundleError: It is not that of a bundle, damaged, or of another version.
            RefusedError: A file name is not one that a bundle may hold.
            LimitError: It is larger than MAX_MANIFEST_BYTES.
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
        absent = set(ATTACHMENT_FIELDS) - set(document)
        names = {"format", "version", "manifest_sha256", *cls.__dataclass_fields__} - absent
        read = _require_fields(document, "top level", names)
        members = _require_list(read["members"], "members")
        if not 2 <= len(members) <= MAX_MEMBERS:
            raise BundleError(f"The manifest has {len(members)} members; a family has 2 to {MAX_MEMBERS}.")
        weights, unused = _require_list(read["weights"], "weights"), _require_list(read["unused"], "unused")
        optional: dict[str, Any] = {}
        if read["weights_file"] is not None:
            optional["weights_file"] = StoredFile.from_json(read["weights_file"], "weights_file", "bin")
        if "calibration" in read:
            optional["calibration"] = StoredFile.from_json(read["calibration"], "calibration", "safetensors")
        if "slider" in read:
            optional["slider"] = parse_slider_points(read["slider"])
        if "slider_about" in read:
            optional["slider_about"] = _require_fields(read["slider_about"], "slider_about")
            if "slider" not in read:
                raise BundleError("The manifest's slider_about is about a slider, and there is none.")
        manifest = cls(
            architecture=_require_text(read["architecture"], "architecture"),
            signature=Signature.from_json(read["signature"]),
            opset=_require_count(read["opset"], "opset", 1 << 15),
            members=tuple(MemberEntry.from_json(entry, f"members[{index}]") for index, entry in enumerate(members)),
            graph=StoredFile.from_json(read["graph"], "graph", "onnx"),
            weights=tuple(WeightEntry.from_json(entry, f"weights[{index}]") for index, entry in enumerate(weights)),
            unused=tuple(_require_text(name, f"unused[{index}]") for index, name in enumerate(unused)),
            tied={
                name: _require_text(other, f"tied[{escape_name(name)!r}]")
                for name, other in _require_fields(read["tied"], "tied").items()
            },
            graph_facts=_require_fields(read["graph_facts"], "graph_facts"),
            **optional,
        )
        _refuse_duplicates([member.name for member in manifest.members], "members")
        _refuse_duplicates([stored.file for stored in manifest.files], "files")
        _refuse_duplicates([weight.name for weight in manifest.weights] + list(manifest.unused), "weights")
        if not _is_canonical(read, data):
            raise BundleError("The manifest does not fit its own SHA-256: it was changed or damaged; copy or export it again.")
        return manifest


def parse_slider_points(value: object) -> tuple[tuple[float, float], ...]:
    """Reads the points of a slider from JSON; PerceptualSlider checks what they mean.

    Returns:
        (position, alpha) of each point.

    Raises:
        BundleError: They are not 2 to MAX_SLIDER_POINTS pairs of numbers from 0 to 1.
    """
    entries = _require_list(value, "slider")
    if not 2 <= len(entries) <= MAX_SLIDER_POINTS:
        raise BundleError(f"The manifest's slider has {len(entries)} points; a slider has 2 to {MAX_SLIDER_POINTS}.")
    points = []
    for index, entry in enumerate(entries):
        pair = _require_list(entry, f"slider[{index}]")
        # Not `isinstance`: true and false are whole numbers to Python.
        if len(pair) != 2 or not all(type(number) in (int, float) and 0 <= number <= 1 for number in pair):
            raise BundleError(
                f"The manifest's slider[{index}] is {escape_name(entry, 40)}, not a position and an alpha, each 0 to 1."
            )
        points.append((float(pair[0]), float(pair[1])))
    return tuple(points)


def _to_canonical_json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, indent=2, allow_nan=False).encode("ascii") + b"\n"


def _is_canonical(document: Mapping[str, Any], data: bytes) -> bool:
    """Whether the document fits its own SHA-256 and has these bytes; a key twice, NaN and numbers beyond floats do not."""
    body = {key: value for key, value in document.items() if key != "manifest_sha256"}
    try:
        digest = sha256(_to_canonical_json(body)).hexdigest()
        return digest == document["manifest_sha256"] and _to_canonical_json(document) == data
    except ValueError:  # NaN or an infinity
        return False


def _parse_json(data: bytes) -> object:
    if len(data) > MAX_MANIFEST_BYTES:
        raise LimitError(f"The manifest is {len(data)} bytes; more than {MAX_MANIFEST_BYTES} are not read.")
    depth = 0
    for token in _JSON_TOKEN_PATTERN.finditer(data):  # the parser itself would recurse, and how far differs between Pythons
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(token[0], 0)
        if depth > MAX_JSON_DEPTH:
            raise BundleError(f"The manifest is nested deeper than {MAX_JSON_DEPTH} levels.")
    try:
        document: object = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise BundleError("The manifest is not UTF-8 text; it is damaged or not that of a bundle.") from None
    except (ValueError, RecursionError) as error:
        raise BundleError(f"The manifest is not whole JSON ({escape_name(error, 80)}); it is damaged or cut.") from None
    return document


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
