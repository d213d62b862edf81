"""The file that Triton runs: what it needs before dni-deploy can be imported, and what it hands on."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dni_deploy.model_repository import repository
from dni_deploy.model_repository.served_model import BUNDLE_NAME
from tests.fakes.triton_backend import Backend, make_arguments
from tests.support import served_bundle


def load_model_file(monkeypatch: pytest.MonkeyPatch, backend: Any) -> Any:
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend)
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("model", Path(repository.__file__).with_name("model.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_triton_opens_asks_and_closes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "1").mkdir()
    served_bundle.write(tmp_path / "1" / BUNDLE_NAME)
    model = load_model_file(monkeypatch, Backend()).TritonPythonModel()
    model.initialize(make_arguments(str(tmp_path)))
    request = {"image": np.full((2, 2, 3), 100, np.uint8), "alpha": np.array([0.0], np.float32)}
    (response,) = model.execute([request])
    assert response.outputs["output"].tolist() == np.full((2, 2, 3), 50).tolist()
    model.finalize()
    (response,) = model.execute([request])
    assert "The session is closed" in response.error.message


def test_folders_of_pythonpath_are_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = sys.path[-1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), "", known]))
    load_model_file(monkeypatch, Backend())
    assert sys.path[1] == str(tmp_path)
    assert sys.path.count(known) == 1


def test_dni_deploy_is_not_imported_where_triton_asks_about_the_configuration() -> None:
    text = Path(repository.__file__).with_name("model.py").read_text()
    assert "\n        from dni_deploy.model_repository.served_model import ServedModel\n" in text
    assert "\nfrom dni_deploy" not in text
