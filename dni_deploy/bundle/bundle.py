"""A bundle opened for reading: one ONNX graph, every member's weights, and the manifest with their SHA-256."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from safetensors import SafetensorError
from safetensors.numpy import load

from dni_deploy.bundle.folder import MANIFEST_FILE_NAME, as_bundle_location, check_bundle_folder
from dni_deploy.bundle.manifest import Manifest
from dni_deploy.bundle.remote import fetch_bundle
from dni_deploy.bundle.slider import PerceptualSlider
from dni_deploy.bundle.stored_file import read_verified
from dni_deploy.errors import BundleError, MismatchError, RefusedError, UsageError, escape_name
from dni_deploy.signature import Signature
from dni_deploy.utils import onnx_weights


@dataclass(frozen=True, repr=False)
class Bundle:
    """An opened bundle. Nothing but the manifest is held in memory; every read checks the file's SHA-256 again.

    Attributes:
        path: The folder; of a bundle at an address, this machine's copy in the cache.
        manifest: Its table of contents.
        digest: SHA-256 of manifest.json in hex: the identity of the whole bundle.
        address: Where it was opened from, if that was an address.
    """

    path: Path
    manifest: Manifest
    digest: str
    address: str | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Reads the manifest and checks every file of it against its SHA-256.

        Args:
            path: The folder, or its address (s3://bucket/sr.dni), from which it is copied once into the cache of this machine.

        Returns:
            The bundle.

        Raises:
            BundleError: The folder is no bundle, or a file is missing, changed or cut.
            RefusedError: A file is a link, not a regular file, or named outside of the folder.
            LimitError: The manifest is larger than its limit.
            UnavailableError: The address cannot be reached.
        """
        location = as_bundle_location(path)
        if isinstance(location, str):
            copy = fetch_bundle(location)
            try:
                bundle = cls.open(copy)
            except (BundleError, RefusedError):  # something damaged the copy
                bundle = cls.open(fetch_bundle(location, anew=True))
            return replace(bundle, address=location)
        folder = location
        for is_last_attempt in (False, False, True):
            bundle = cls.read_manifest(folder)
            try:
                for stored in bundle.manifest.files:
                    read_verified(folder, stored, keep=False)
            except (BundleError, RefusedError):
                # Another process may have replaced the bundle after its manifest and before its files were read.
                if is_last_attempt or cls.read_manifest(folder).digest == bundle.digest:
                    raise
            else:
                return bundle
        raise AssertionError("unreachable")

    @classmethod
    def ensure_open(cls, bundle: Bundle | str | os.PathLike[str]) -> Bundle:
        """Returns an opened bundle, as `localize` does, or opens one; errors are those of both."""
        return bundle.localize() if isinstance(bundle, Bundle) else cls.open(bundle)

    def localize(self) -> Bundle:
        """Returns the bundle as this machine can read it: one that another machine opened at an address is copied first.

        Raises:
            BundleError: There is another bundle at the address by now; and as `open`, whose other errors it raises, too.
        """
        if self.address is None or self.path.is_dir():
            return self
        bundle = Bundle.open(self.address)
        if bundle.digest != self.digest:
            raise BundleError(f"{escape_name(self.address)} was replaced since the job began; begin it again.")
        return bundle

    @classmethod
    def read_manifest(cls, folder: Path) -> Bundle:
        """Opens a bundle without checking any file but the manifest; errors are those of `open`."""
        check_bundle_folder(folder)
        data = read_verified(folder, None, keep=True)
        try:
            return cls(folder, Manifest.from_bytes(data), sha256(data).hexdigest())
        except (BundleError, RefusedError) as error:
            raise type(error)(f"{escape_name(folder / MANIFEST_FILE_NAME)}: {error}") from None

    def __repr__(self) -> str:
        place = escape_name(self.address or self.path)
        return f"<Bundle {place}: {', '.join(map(escape_name, self.members))} of {escape_name(self.architecture)}>"

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the members, in family order."""
        return tuple(member.name for member in self.manifest.members)

    @property
    def signature(self) -> Signature:
        """What goes into the network and comes out."""
        return self.manifest.signature

    @property
    def architecture(self) -> str:
        """Name of the architecture, as in `--arch`."""
        return self.manifest.architecture

    @property
    def weight_names(self) -> tuple[str, ...]:
        """Names of the blended initializers, in graph order."""
        return tuple(weight.name for weight in self.manifest.weights)

    @property
    def slider(self) -> PerceptualSlider | None:
        """The perceptually uniform slider that `dni-deploy slider` stored, or None; its points may raise BundleError."""
        return None if self.manifest.slider is None else PerceptualSlider(self.manifest.slider)

    def alpha_at(self, position: float) -> float:
        """Returns alpha, the first member's share, at a position of the stored slider.

        Args:
            position: From 0 to 1.

        Raises:
            UsageError: The bundle has no slider, or the position is another number.
        """
        if self.slider is None:
            path = escape_name(self.path)
            raise UsageError(f"{path} holds no slider; `dni-deploy slider {path} IMAGE` measures one and stores it there.")
        return self.slider.alpha_at(position)

    def read_graph(self) -> ModelProto:
        """Reads the graph without its weights: their initializers have name, shape and type, and no data.

        Returns:
            A new model, which the caller may change.

        Raises:
            BundleError: The file changed since the bundle was opened, or does not fit the manifest.
            RefusedError: The graph points at a file that is not one of the weights.
        """
        model = onnx_weights.parse_graph(read_verified(self.path, self.manifest.graph), escape_name(self.manifest.graph.file))
        onnx_weights.strip_weights(model, {weight.name: weight.shape for weight in self.manifest.weights})
        return model

    def read_graph_with_weights(self, weights: str | Mapping[str, NDArray[Any]]) -> ModelProto:
        """Reads the graph and puts float32 weights into it.

        Args:
            weights: A member's name, or arrays by name, which are rounded to float32.

        Returns:
            A new model, which the caller may change.

        Raises:
            MismatchError: A name is missing or a shape differs.
            BundleError: As `read_graph` and `read_weights`.
        """
        tensors = self.read_weights(weights) if isinstance(weights, str) else weights
        missing = [name for name in self.weight_names if name not in tensors]
        if missing:
            raise MismatchError(f"{len(missing)} of the graph's weights are missing, first {escape_name(missing[0])!r}.")
        model = self.read_graph()
        onnx_weights.fill_initializers(
            model, self.weight_names, lambda name: np.asarray(tensors[name]).astype(np.float32, copy=False)
        )
        return model

    def read_tensors(self, member: str) -> dict[str, NDArray[Any]]:
        """Reads all tensors of a member's checkpoint, integers too, in their own dtypes.

        Args:
            member: Name of the member.

        Returns:
            New, read-only arrays by name.

        Raises:
            UsageError: There is no such member.
            BundleError: The file changed since the bundle was opened.
        """
        if member not in self.members:
            raise UsageError(
                f"The bundle has no member {escape_name(member)!r}; it has {', '.join(map(escape_name, self.members))}."
            )
        stored = self.manifest.members[self.members.index(member)].stored
        data = read_verified(self.path, stored)
        try:
            tensors: dict[str, NDArray[Any]] = load(data)
        except (SafetensorError, KeyError, TypeError, ValueError):
            raise BundleError(
                f"{escape_name(stored.file)} is not a safetensors file, though its SHA-256 fits the manifest."
            ) from None
        for tensor in tensors.values():
            tensor.flags.writeable = False
        return tensors

    def read_weights(self, member: str) -> dict[str, NDArray[Any]]:
        """Reads a member's value of every blended initializer, in its own dtype.

        Args:
            member: Name of the member.

        Returns:
            New, read-only arrays by name, in graph order.

        Raises:
            UsageError: There is no such member.
            BundleError: The file changed since the bundle was opened, or a weight is missing or has another shape than the
                graph's.
        """
        tensors = self.read_tensors(member)
        for weight in self.manifest.weights:
            tensor = tensors.get(weight.name)
            if tensor is None or tensor.shape != weight.shape or tensor.dtype.kind != "f":
                what = "missing" if tensor is None else f"{tensor.dtype} {tensor.shape}"
                raise BundleError(
                    f"Member {escape_name(member)!r}: {escape_name(weight.name)!r} is {what}; the graph has it as "
                    f"{weight.shape}."
                )
        return {weight.name: tensors[weight.name] for weight in self.manifest.weights}

    def read_all_weights(self) -> list[dict[str, NDArray[Any]]]:
        """Reads every member's weights, in family order, as `read_weights` does."""
        return [self.read_weights(member) for member in self.members]
