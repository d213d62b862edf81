"""A bundle as a model of Triton's python backend: the bundle is bundle.dni beside this file, its settings are in config.pbtxt."""

from __future__ import annotations

import os
import sys
from typing import Any

# Triton's python process does not read PYTHONPATH itself (2.51).
sys.path[1:1] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path]

import triton_python_backend_utils as pb_utils  # noqa: E402


class TritonPythonModel:
    """What Triton calls; one for each instance, in a process of its own, by one thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the bundle."""
        # Not at the top: Triton imports this file a second time, in another process, to ask about the configuration.
        from dni_deploy.model_repository.served_model import ServedModel

        self.model = ServedModel(args, pb_utils)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers requests."""
        return self.model.execute(requests)

    def finalize(self) -> None:
        """Frees the network."""
        self.model.close()
