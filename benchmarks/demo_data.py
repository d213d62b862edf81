"""Writes what the demo needs beside its weights, so that it needs no PyTorch: the exported graph and the calibration.

python -m benchmarks.demo_data
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from dni_deploy.api import demo
from dni_deploy.bundle.bundle import Bundle

FOLDER = Path(__file__).parent.parent / "dni_deploy" / "data" / "denoise"


def write_demo_data(folder: Path) -> None:
    """Exports and calibrates the demo family, and writes graph.onnx, calibration.safetensors and bundle.json to a folder."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)  # the calibration names its picture as it was given
        try:
            demo.demo("demo", from_checkpoints=True)
        finally:
            os.chdir(before)
        bundle = Bundle.open(Path(temporary) / "demo" / "demo.dni")
        assert bundle.manifest.calibration is not None
        (folder / "graph.onnx").write_bytes(bundle.read_graph().SerializeToString(deterministic=True))
        (folder / "calibration.safetensors").write_bytes((bundle.path / bundle.manifest.calibration.file).read_bytes())
    facts = {
        "architecture": bundle.architecture,
        "graph_facts": dict(bundle.manifest.graph_facts),
        "signature": bundle.signature.to_json(),
    }
    (folder / "bundle.json").write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_demo_data(FOLDER)
