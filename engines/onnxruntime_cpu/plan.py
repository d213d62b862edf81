"""Plan: the layout of an optimized network, kept on disk so that a session opens without optimizing again.

One safetensors file in the bundle's `plans/` folder. It holds the optimized graph and the gather map, no weights: those stay in the
bundle, so a plan serves every family on the same graph. Its name is the hash of all that the layout depends on (the graph,
ONNX Runtime's version, the processor's instruction sets, our own lowering), so a plan for anything else is never looked at; its
content is checked against a SHA-256 of its own.
"""

from __future__ import annotations

import json
import os
import platform
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import BundleError, shown
from dni_deploy.utils.atomic_write import publish_bytes
from dni_deploy.utils.hardware import cpu
from engines.onnxruntime_cpu.layout import Layout, Slot
from engines.source import fingerprint

FORMAT = "dni-deploy plan for onnxruntime, version 1"
SOURCE = ("onnxruntime_cpu", "lowering", "recipes.py")


def plan_path(bundle: Bundle) -> Path:
    """Where this machine's plan for the bundle is, or would be."""
    return bundle.path / "plans" / f"onnxruntime-{_key(bundle)[:16]}.plan"


def write_plan(bundle: Bundle, layout: Layout, *, force: bool = False) -> Path:
    """Write the layout as the bundle's plan for this machine. Raises UsageError (exists), LimitError, InputError."""
    header = {
        "format": FORMAT,
        "key": _key(bundle),
        "slots": [[slot.name, list(slot.shape), slot.start, slot.stop] for slot in layout.slots],
        "offsets": list(layout.offsets.items()),
    }
    tensors: dict[str, NDArray[Any]] = {
        "optimized": np.frombuffer(layout.optimized.SerializeToString(deterministic=True), np.uint8),
        "gather": layout.gather.astype(np.int64),
    }
    text = json.dumps(header, sort_keys=True)
    path = plan_path(bundle)
    path.parent.mkdir(exist_ok=True)
    publish_bytes(path, save(tensors, {"header": text, "sha256": _digest(text, tensors)}), force=force)
    return path


def read_plan(bundle: Bundle) -> Layout | None:
    """The layout from the bundle's plan for this machine, or None where there is none. Raises BundleError if it is damaged."""
    path = plan_path(bundle)
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BundleError(f"{shown(path)} cannot be read: {os.strerror(error.errno or 0)}.") from None
    damaged = BundleError(f"{shown(path)} is damaged; write it again with dni-deploy build {shown(bundle.path)} --force.")
    try:
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        tensors = load(data)
        if metadata["sha256"] != _digest(metadata["header"], tensors):
            raise damaged
        header = json.loads(metadata["header"])
        if header["format"] != FORMAT or header["key"] != _key(bundle):
            raise damaged
        optimized = onnx.ModelProto.FromString(tensors["optimized"].tobytes())
        slots = tuple(Slot(name, tuple(shape), start, stop) for name, shape, start, stop in header["slots"])
        return Layout(optimized, slots, tensors["gather"], dict(header["offsets"]))
    except (SafetensorError, DecodeError, ValueError, KeyError, TypeError, RecursionError):
        raise damaged from None


def _digest(header: str, tensors: dict[str, NDArray[Any]]) -> str:
    digest = sha256(header.encode())
    for name in sorted(tensors):
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()


def _key(bundle: Bundle) -> str:
    """Hash of everything that the layout depends on."""
    facts = [
        FORMAT, bundle.manifest.graph.sha256, list(bundle.weight_names), ort.__version__, platform.machine(), cpu()[1],
        fingerprint(*SOURCE),
    ]  # fmt: skip
    return sha256(json.dumps(facts).encode()).hexdigest()
