"""The manifest: its bytes, and everything that must be refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from dni_deploy.bundle.manifest import MAX_JSON_DEPTH, MAX_MANIFEST_BYTES, Manifest, MemberEntry, StoredFile, WeightEntry
from dni_deploy.errors import BundleError, DniError, LimitError, RefusedError
from dni_deploy.signature import Signature


def stored(stem: str, suffix: str) -> StoredFile:
    digest = sha256(stem.encode()).hexdigest()
    return StoredFile(f"{stem}-{digest[:16]}.{suffix}", digest, 100)


def manifest() -> Manifest:
    return Manifest(
        architecture="pico",
        signature=Signature(radius=1),
        opset=17,
        members=tuple(MemberEntry(name, stored(name, "safetensors"), f"{name}.pth", "ab" * 32, "float32") for name in "ab"),
        graph=stored("graph", "onnx"),
        weights=(WeightEntry("conv.weight", (2, 1, 3, 3)), WeightEntry("scale", ())),
        weights_file=stored("weights", "bin"),
        unused=("späre",),
        tied={"alias": "conv.weight"},
        graph_facts={"probe_error": 1e-7, "torch": "2.13"},
    )


def signed(document: dict[str, Any]) -> bytes:
    """Returns the bytes of a document with a valid SHA-256 of its own, as anybody could write them."""
    body = {key: value for key, value in document.items() if key != "manifest_sha256"}
    dumped = json.dumps(body, sort_keys=True, indent=2).encode() + b"\n"
    body["manifest_sha256"] = sha256(dumped).hexdigest()
    return json.dumps(body, sort_keys=True, indent=2).encode() + b"\n"


def test_stored_bytes_are_fixed() -> None:
    data = manifest().to_bytes()
    # A change of this number is a change of the format on disk: raise MANIFEST_SCHEMA_VERSION with it.
    assert sha256(data).hexdigest() == "0bb91c17a2b6c8fe5957a6aaa495f78616a0ceb26eb96ad7bac6e64ac64b950a"
    assert data.isascii()
    assert data.endswith(b"}\n")


def test_manifest_round_trip() -> None:
    assert Manifest.from_bytes(manifest().to_bytes()) == manifest()
    without = replace(manifest(), weights_file=None, unused=(), tied={}, graph_facts={})
    assert Manifest.from_bytes(without.to_bytes()) == without
    assert [entry.file.partition("-")[0] for entry in manifest().files] == ["graph", "weights", "a", "b"]


def extended() -> Manifest:
    """Returns a manifest with every attachment."""
    slider = ((0.0, 0.0), (0.25, 0.5), (1.0, 1.0))
    return replace(manifest(), calibration=stored("calibration", "safetensors"), slider=slider)


def test_slider_provenance_is_stored_only_with_a_slider() -> None:
    described = replace(
        extended(), slider_about={"pictures": [{"name": "ä.png", "sha256": "0" * 64}], "before": 1.5, "after": 1.0}
    )
    assert Manifest.from_bytes(described.to_bytes()) == described
    for other, message in ((replace(described, slider=None), "there is none"), (extended(), "slider_about is not an object")):
        document = json.loads(other.to_bytes())
        document.setdefault("slider_about", [])
        with pytest.raises(BundleError, match=message):
            Manifest.from_bytes(signed(document))


def test_attachments_round_trip_and_are_omitted_when_unset() -> None:
    assert not {"calibration", "slider"} & set(json.loads(manifest().to_bytes()))
    assert Manifest.from_bytes(extended().to_bytes()) == extended()
    assert [entry.file.partition("-")[0] for entry in extended().files] == ["graph", "weights", "calibration", "a", "b"]
    for extra in ("calibration", "slider"):
        without = replace(extended(), **{extra: None})
        assert Manifest.from_bytes(without.to_bytes()) == without
    # A change of this number is a change of the format on disk.
    assert sha256(extended().to_bytes()).hexdigest() == "3d80c12db5da378b450004f9ddc74bbfd58003deb75080d4173a7d4c3bdf6379"


def test_integer_signature_levels_round_trip() -> None:
    # Signature reads them as floats, but the bytes that were hashed had integers.
    with_integers = replace(manifest(), signature=Signature(low=-1, high=1))
    assert Manifest.from_bytes(with_integers.to_bytes()) == with_integers


def test_nan_in_graph_facts_is_not_written() -> None:
    with pytest.raises(ValueError):
        replace(manifest(), graph_facts={"probe_error": float("nan")}).to_bytes()


def _flips(step: int) -> list[int]:
    data = manifest().to_bytes()
    # Coprime to 8, so that the fast sample covers every bit position and nearly every byte.
    return list(range(0, 8 * len(data), step))


def _assert_flips_are_refused(step: int) -> None:
    data = manifest().to_bytes()
    for bit in _flips(step):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DniError):
            Manifest.from_bytes(bytes(flipped))


def test_sampled_bit_flips_are_refused() -> None:
    _assert_flips_are_refused(11)


@pytest.mark.slow
def test_every_bit_flip_is_refused() -> None:
    _assert_flips_are_refused(1)


def test_every_truncation_is_refused() -> None:
    data = manifest().to_bytes()
    for length in range(len(data)):
        with pytest.raises(BundleError):
            Manifest.from_bytes(data[:length])


def _set(*path: Any) -> Callable[[dict[str, Any]], None]:
    *parents, last, value = path

    def change(document: dict[str, Any]) -> None:
        node: Any = document
        for key in parents:
            node = node[key]
        node[last] = value

    return change


NAMES = (
    "../graph-{}.onnx", "/etc/graph-{}.onnx", "sub/graph-{}.onnx", "C:\\graph-{}.onnx", "graph-{}.onnx\n", "graph-{}.onnx\0",
    "graph:{}.onnx", "https://x/graph-{}.onnx", "graph-{}.safetensors", "graph-{}.so", "gráph-{}.onnx", "", "..", "graph-{}.ONNX",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_foreign_file_name_is_refused_unread(name: str) -> None:
    document = json.loads(manifest().to_bytes())
    document["graph"]["file"] = name.format(document["graph"]["sha256"][:16])
    with pytest.raises(RefusedError):
        Manifest.from_bytes(signed(document))


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "format": (_set("format", "another"), "not that of a bundle"),
    "no format": (lambda document: document.pop("format"), "not that of a bundle"),
    "newer version": (_set("version", 2), "version 2, this program reads version 1"),
    "version true": (_set("version", True), "version True"),
    "version text": (_set("version", "1"), "version 1"),
    "unknown field": (_set("extra", 1), "unknown field 'extra'"),
    "missing field": (lambda document: document.pop("weights"), "lacks the field 'weights'"),
    "unknown field of a member": (_set("members", 0, "path", "x"), "unknown field 'path'"),
    "one member": (lambda document: document["members"].pop(), "has 1 members"),
    "no list": (_set("members", {}), "members is not a list"),
    "17 members": (lambda document: document.update(members=document["members"] * 9), "has 18 members"),
    "a member twice": (lambda document: document.update(members=document["members"][:1] * 2), "'a' twice"),
    "member name": (_set("members", 0, "name", "a=b"), "not a member's name"),
    "digest upper case": (lambda d: d["graph"].update(sha256=d["graph"]["sha256"].upper()), "does not go with"),
    "digest of another algorithm": (lambda d: d["graph"].update(sha256=d["graph"]["sha256"][:40]), "does not go with"),
    "digest of another file": (lambda d: d["graph"].update(sha256="0" * 64), "does not go with"),
    "negative size": (_set("graph", "size", -1), "not a whole number"),
    "size true": (_set("graph", "size", True), "not a whole number"),
    "size fraction": (_set("graph", "size", 1.5), "not a whole number"),
    "huge size": (_set("graph", "size", 1 << 50), "not a whole number"),
    "shape negative": (_set("weights", 0, "shape", [-1]), "not a whole number"),
    "shape text": (_set("weights", 0, "shape", "2"), "not a list"),
    "weight twice": (lambda d: d["weights"].append(d["weights"][0]), "'conv.weight' twice"),
    "unused that is a weight": (_set("unused", ["conv.weight"]), "'conv.weight' twice"),
    "weight name a number": (_set("weights", 0, "name", 5), "is not text"),
    "tied a list": (_set("tied", []), "not an object"),
    "tied to a number": (_set("tied", {"x": 1}), "is not text"),
    "signature without kind": (lambda document: document["signature"].pop("kind"), "signature"),
    "signature low text": (_set("signature", "low", "black"), "signature"),
    "signature low list": (_set("signature", "low", []), "signature"),
    "opset text": (_set("opset", "17"), "not a whole number"),
    "facts a list": (_set("graph_facts", []), "not an object"),
    "terminal escapes": (_set("architecture", 5), "is not text"),
}


ATTACHMENT_CHANGES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "calibration null": (_set("calibration", None), "calibration is not an object"),
    "calibration by name": (_set("calibration", "r.safetensors"), "calibration is not an object"),
    "calibration without size": (lambda document: document["calibration"].pop("size"), "lacks the field 'size'"),
    "calibration with pictures": (_set("calibration", "pictures", []), "unknown field 'pictures'"),
    "calibration of another digest": (_set("calibration", "sha256", "0" * 64), "does not go with"),
    "calibration that is a member": (
        lambda d: d.update(calibration={k: d["members"][0][k] for k in STORED}),
        "twice in files",
    ),
    "slider null": (_set("slider", None), "slider is not a list"),
    "slider object": (_set("slider", {}), "slider is not a list"),
    "slider of one knot": (_set("slider", [[0, 0]]), "has 1 points"),
    "slider of many knots": (_set("slider", [[0, 0]] * 1025), "has 1025 points"),
    "knot no list": (_set("slider", 1, 0.5), "slider[1] is not a list"),
    "knot of three": (_set("slider", 1, [0, 0, 0]), "slider[1] is [0, 0, 0], not a position"),
    "knot true": (_set("slider", 1, [True, 0]), "slider[1] is [True, 0], not a position"),
    "knot text": (_set("slider", 1, ["0", 0]), "not a position"),
    "knot beyond": (_set("slider", 1, [0.5, 1.5]), "not a position"),
    "knot below": (_set("slider", 1, [-0.5, 0.5]), "not a position"),
}
STORED = ("file", "sha256", "size")


@pytest.mark.parametrize("name", ATTACHMENT_CHANGES)
def test_malformed_attachments_are_named(name: str) -> None:
    change, message = ATTACHMENT_CHANGES[name]
    document = json.loads(extended().to_bytes())
    change(document)
    with pytest.raises(BundleError) as raised:
        Manifest.from_bytes(signed(document))
    assert message in str(raised.value)


@pytest.mark.parametrize("name", ["../calibration-{}.safetensors", "calibration-{}.onnx", "/tmp/calibration-{}.safetensors"])
def test_a_calibration_outside_the_bundle_is_refused_unread(name: str) -> None:
    document = json.loads(extended().to_bytes())
    document["calibration"]["file"] = name.format(document["calibration"]["sha256"][:16])
    with pytest.raises(RefusedError):
        Manifest.from_bytes(signed(document))


def test_integers_in_a_slider_round_trip() -> None:
    document = json.loads(extended().to_bytes())
    document["slider"] = [[0, 0], [0.25, 0.5], [1, 1]]
    assert Manifest.from_bytes(signed(document)) == extended()


@pytest.mark.parametrize("name", CHANGES)
def test_malformed_fields_are_named(name: str) -> None:
    change, message = CHANGES[name]
    document = json.loads(manifest().to_bytes())
    change(document)
    with pytest.raises(BundleError) as raised:
        Manifest.from_bytes(signed(document))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


RAW: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"<!DOCTYPE html>",
    "array": b"[]",
    "number": b"1",
    "not UTF-8": b'{"format": "\xff"}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "NaN": b'{"format": NaN}',
    "Infinity": b'{"a": -Infinity}',
    "too large a number": b'{"a": 1e999}',
    "too long a number": b'{"a": ' + b"9" * 5000 + b"}",
    "duplicate keys": b'{"format": "dni-deploy bundle", "format": "dni-deploy bundle"}',
    "deep arrays": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "trailing": b"{} {}",
    "lone surrogate": b'{"format": "\\ud800"}',
}


@pytest.mark.parametrize("name", RAW)
def test_bytes_that_are_not_a_manifest_are_refused(name: str) -> None:
    with pytest.raises(BundleError) as raised:
        Manifest.from_bytes(RAW[name])
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300


def test_the_limit_of_depth_comes_before_what_a_parser_can_do() -> None:
    for depth, message in ((MAX_JSON_DEPTH, "its 'format' is not"), (MAX_JSON_DEPTH + 1, "nested deeper than")):
        with pytest.raises(BundleError, match=message):
            Manifest.from_bytes(b"[" * depth + b"]" * depth)


def test_a_manifest_with_other_whitespace_is_refused() -> None:
    document = json.loads(manifest().to_bytes())
    with pytest.raises(BundleError, match="own SHA-256"):
        Manifest.from_bytes(json.dumps(document).encode())
    assert Manifest.from_bytes(signed(document)) == manifest()


def test_the_size_limit_holds_for_reading_and_writing() -> None:
    with pytest.raises(LimitError):
        Manifest.from_bytes(b" " * (MAX_MANIFEST_BYTES + 1))
    with pytest.raises(LimitError):
        replace(manifest(), unused=tuple(f"{number:01000d}" for number in range(5000))).to_bytes()
