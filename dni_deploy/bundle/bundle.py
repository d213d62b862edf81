"""Bundle: the folder with one ONNX graph, every member's weights, and the manifest that vouches for them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from safetensors import SafetensorError
from safetensors.numpy import load

from dni_deploy.bundle.manifest import MANIFEST_FILE_NAME, Manifest
from dni_deploy.bundle.slider import PerceptualSlider
from dni_deploy.bundle.stored_file import read_verified
from dni_deploy.errors import BundleError, MismatchError, RefusedError, UsageError, escape_name
from dni_deploy.signature import Signature
from dni_deploy.utils import onnx_weights

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. Nothing but the manifest is held in memory; every read checks the file's SHA-256 again.

    path      the folder.
    manifest  its table of contents.
    digest    SHA-256 of manifest.json in hex: the identity of the whole bundle.
    """

    path: Path
    manifest: Manifest
    digest: str

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Read the manifest and check every file of it against its SHA-256.

        Raises BundleError (not a bundle, a file missing, changed or cut), RefusedError (a file that is a link, not a
        file, or named outside the folder), LimitError (a manifest beyond its size limit).
        """
        folder = Path(path)
        for last in (False, False, True):
            bundle = cls._read_manifest(folder)
            try:
                for stored in bundle.manifest.files:
                    read_verified(folder, stored, keep=False)
            except (BundleError, RefusedError):
                # Somebody may have replaced the bundle between our reading of its manifest and of its files.
                if last or cls._read_manifest(folder).digest == bundle.digest:
                    raise
            else:
                return bundle
        raise AssertionError("unreachable")

    @classmethod
    def ensure_open(cls, bundle: Bundle | str | os.PathLike[str]) -> Bundle:
        """A bundle that is open already, as it is; else the one in that folder, opened."""
        return bundle if isinstance(bundle, Bundle) else cls.open(bundle)

    @classmethod
    def _read_manifest(cls, folder: Path) -> Bundle:
        if not folder.is_dir():
            missing = "does not exist" if not os.path.lexists(folder) else "is not a folder"
            raise BundleError(f"{escape_name(folder)} {missing}; a bundle is the folder that `dni-deploy export` writes.")
        data = read_verified(folder, None, keep=True)
        try:
            return cls(folder, Manifest.from_bytes(data), sha256(data).hexdigest())
        except (BundleError, RefusedError) as error:
            raise type(error)(f"{escape_name(folder / MANIFEST_FILE_NAME)}: {error}") from None

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.manifest.members)

    @property
    def signature(self) -> Signature:
        return self.manifest.signature

    @property
    def architecture(self) -> str:
        return self.manifest.architecture

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The blended initializers, in graph order."""
        return tuple(weight.name for weight in self.manifest.weights)

    @property
    def slider(self) -> PerceptualSlider | None:
        """The slider with even steps that `dni-deploy slider` stored; None without. Raises BundleError for knots that are none."""
        return None if self.manifest.slider is None else PerceptualSlider(self.manifest.slider)

    def alpha_at(self, position: float) -> float:
        """Alpha, the first member's share, at a position of the stored slider, 0 to 1. Raises UsageError where there is no slider."""
        if self.slider is None:
            raise UsageError(
                f"{escape_name(self.path)} holds no slider; `dni-deploy slider {escape_name(self.path)} PICTURE` measures one and keeps it there."
            )
        return self.slider.alpha_at(position)

    def read_graph(self) -> ModelProto:
        """The graph with its weights taken out: those initializers have name, shape and type, no data. The caller's own."""
        model = onnx_weights.parse_graph(read_verified(self.path, self.manifest.graph), escape_name(self.manifest.graph.file))
        onnx_weights.strip_weights(model, {weight.name: weight.shape for weight in self.manifest.weights})
        return model

    def read_graph_with_weights(self, weights: str | Mapping[str, NDArray[Any]]) -> ModelProto:
        """The graph with float32 weights inside: a member's, or these by name, rounded to float32. The caller's own.

        Raises MismatchError if a name is missing or a shape differs.
        """
        tensors = self.read_weights(weights) if isinstance(weights, str) else weights
        missing = [name for name in self.weight_names if name not in tensors]
        if missing:
            raise MismatchError(f"{len(missing)} of the graph's weights are not given, first {escape_name(missing[0])!r}.")
        model = self.read_graph()
        onnx_weights.fill_initializers(
            model, self.weight_names, lambda name: np.asarray(tensors[name]).astype(np.float32, copy=False)
        )
        return model

    def read_tensors(self, member: str) -> dict[str, NDArray[Any]]:
        """All tensors of the member's checkpoint, integers too, in their own dtypes. Fresh and read-only at every call.

        Raises UsageError on an unknown member, BundleError if the file changed since the bundle was opened.
        """
        if member not in self.members:
            raise UsageError(
                f"The bundle has no member {escape_name(member)!r}; it has {', '.join(map(escape_name, self.members))}."
            )
        stored = self.manifest.members[self.members.index(member)].stored
        try:
            tensors: dict[str, NDArray[Any]] = load(read_verified(self.path, stored))
        except (SafetensorError, KeyError, TypeError, ValueError):
            raise BundleError(
                f"{escape_name(stored.file)} is not a safetensors file, though its SHA-256 fits the manifest."
            ) from None
        for tensor in tensors.values():
            tensor.flags.writeable = False
        return tensors

    def read_weights(self, member: str) -> dict[str, NDArray[Any]]:
        """The member's value of every blended initializer, in graph order, in its own dtype. Fresh and read-only at every call.

        Raises as `tensors` does, and BundleError if a weight is missing or has another shape than the graph's.
        """
        tensors = self.read_tensors(member)
        for weight in self.manifest.weights:
            found = tensors.get(weight.name)
            if found is None or found.shape != weight.shape or found.dtype.kind != "f":
                what = "missing" if found is None else f"{found.dtype} {found.shape}"
                raise BundleError(
                    f"Member {escape_name(member)!r}: {escape_name(weight.name)!r} is {what}, the graph has it as {weight.shape}."
                )
        return {weight.name: tensors[weight.name] for weight in self.manifest.weights}

    def read_all_weights(self) -> list[dict[str, NDArray[Any]]]:
        """Reads every member's weights, in family order, as `read_weights` does."""
        return [self.read_weights(member) for member in self.members]
