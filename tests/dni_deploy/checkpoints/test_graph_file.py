"""Members that bring their graph are recognized by their suffix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.checkpoints.graph_file import are_graph_files
from dni_deploy.errors import CheckpointError, UsageError
from tests.support.graph_files import write_model


def test_suffixes_decide() -> None:
    assert are_graph_files({"a": "x/A.ONNX", "b": Path("b.param")})
    assert not are_graph_files({"a": "a.pth", "b": {"w": np.ones(2)}})
    with pytest.raises(UsageError, match="give all members in one form"):
        are_graph_files({"a": "a.onnx", "b": "b.pth"})


def test_a_graph_read_as_a_checkpoint_says_what_it_is(tmp_path: Path) -> None:
    path = write_model(tmp_path / "a.onnx")
    with pytest.raises(CheckpointError, match="it is an ONNX graph; `dni-deploy export` makes a bundle"):
        Checkpoint.read(path)
