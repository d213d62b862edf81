"""A network as a graph without weights, with its float64 output, for machines that have no PyTorch.

Three small files: NAME.onnx (names and shapes of the weights, no numbers), NAME.json, NAME.npz (an input and the expected
outputs).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.gpu.random_weights import State, digest_states, make_random_family
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.writer import write_bundle
from dni_deploy.checkpoints.family import Family
from dni_deploy.errors import InputError, escape_name
from dni_deploy.signature import Signature
from dni_deploy.utils.atomic_write import write_bytes_atomically, write_file_atomically

REFERENCE_ALPHAS: dict[str, tuple[float, float]] = {"mixed": (0.35, 0.65), "second": (0.0, 1.0), "first": (1.0, 0.0)}
"""Coefficients at which outputs are compared; the networks of this benchmark have two members."""


@dataclass(frozen=True)
class PreparedNetwork:
    """A network without its weights.

    Attributes:
        name: Name of its files.
        title: For tables.
        architecture: As in exporters.architectures.
        signature: Of the network.
        seed: Of the members, which `states` draws; `weights_sha256` says whether they are the same everywhere.
        shapes: Of the members' tensors.
        weights_sha256: Digest of the members.
        graph: Opset 17, weights without data.
    """

    name: str
    title: str
    architecture: str
    signature: Signature
    seed: int
    shapes: dict[str, tuple[int, ...]]
    weights_sha256: str
    graph: onnx.ModelProto

    @property
    def parameters(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.shapes.values())

    def states(self) -> dict[str, State]:
        """Draws the members; InputError if this NumPy draws other numbers than the one used for the expected outputs."""
        states = make_random_family(self.shapes, seed=self.seed)
        if digest_states(states) != self.weights_sha256:
            raise InputError(f"The random weights of {self.name} come out differently here; run --prepare with this NumPy.")
        return states

    def bundle(self, folder: Path) -> Bundle:
        """Opens the bundle at this path, writing it first if needed. The graph's weights are the first member's."""
        if (folder / "manifest.json").is_file():
            return Bundle.open(folder)
        members = Family.from_checkpoints(dict(self.states()))
        facts = {"made by": "benchmarks.gpu"}
        return write_bundle(folder, self.graph, members, self.signature, architecture=self.architecture, graph_facts=facts)

    def save(self, folder: Path, expected: dict[str, NDArray[Any]]) -> None:
        """Writes the three files; `expected` holds "x" and an output for each of REFERENCE_ALPHAS."""
        folder.mkdir(parents=True, exist_ok=True)
        facts = {
            "schema": 1,
            "title": self.title,
            "architecture": self.architecture,
            "signature": self.signature.to_json(),
            "seed": self.seed,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "weights_sha256": self.weights_sha256,
        }
        write_bytes_atomically(folder / f"{self.name}.onnx", self.graph.SerializeToString(deterministic=True), force=True)
        write_bytes_atomically(folder / f"{self.name}.json", (json.dumps(facts, indent=1) + "\n").encode(), force=True)
        with write_file_atomically(folder / f"{self.name}.npz", force=True) as path, path.open("wb") as file:
            np.savez_compressed(file, **expected)  # type: ignore[arg-type]  # its stub takes every keyword for allow_pickle

    @classmethod
    def load(cls, folder: Path, name: str) -> PreparedNetwork:
        """Reads the files; InputError if they do not exist."""
        try:
            facts = json.loads((folder / f"{name}.json").read_bytes())
            graph = onnx.ModelProto.FromString((folder / f"{name}.onnx").read_bytes())
        except OSError:
            raise InputError(
                f"{escape_name(name)} is not prepared in {escape_name(folder)}; where PyTorch is: "
                f"python -m benchmarks.gpu --prepare {escape_name(folder)}"
            ) from None
        shapes = {key: tuple(shape) for key, shape in facts["shapes"].items()}
        return cls(
            name,
            facts["title"],
            facts["architecture"],
            Signature.from_json(facts["signature"]),
            facts["seed"],
            shapes,
            facts["weights_sha256"],
            graph,
        )


def read_expected_outputs(folder: Path, name: str) -> dict[str, NDArray[np.float32]]:
    """Reads what `save` wrote: "x" and the outputs by name of REFERENCE_ALPHAS."""
    with np.load(folder / f"{name}.npz") as stored:
        return {key: stored[key] for key in stored.files}


def random_input(signature: Signature, shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """Draws float32 noise over the network's range: zeros draw less power, and a GPU that draws less power clocks higher."""
    noise = np.random.default_rng(seed).random(shape, np.float32)
    result: NDArray[np.float32] = np.float32(signature.low) + np.float32(signature.high - signature.low) * noise
    return result
