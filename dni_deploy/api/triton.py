"""Writes a bundle as a model of Triton Inference Server."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.model_repository.model_config import ModelOptions, list_inputs, list_outputs
from dni_deploy.model_repository.repository import write_model


@dataclass(frozen=True)
class TritonReport:
    """What was written.

    Attributes:
        repository: The model repository.
        name: Of the model.
        version: The version that was written.
        older_versions: Those that were there before and still are.
        members: Names of the members, in the order of the numbers of `alpha`.
        inputs: Triton's data type and shape of each input, by name; -1 is a length that each request chooses.
        outputs: The same of the outputs.
        files: Number of files of the model's new version and of the model itself.
        size: Bytes of these files.
        seconds: Time for everything.
    """

    repository: str
    name: str
    version: int
    older_versions: tuple[int, ...]
    members: tuple[str, ...]
    inputs: dict[str, str]
    outputs: dict[str, str]
    files: int
    size: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Returns the report as `--json` prints it."""
        return asdict(self)


def triton(
    bundle_path: Bundle | str | os.PathLike[str],
    repository: str | os.PathLike[str],
    *,
    name: str | None = None,
    options: ModelOptions | None = None,
    force: bool = False,
) -> TritonReport:
    """Writes a bundle as a model of Triton Inference Server, with alpha as an input of every request.

    Args:
        bundle_path: The bundle or its path, calibrated or not; the model gets a copy of it.
        repository: The model repository, a folder for models; it is made where it does not exist.
        name: Of the model; None: that of the bundle's folder, without its suffix.
        options: How Triton runs it; None: the defaults.
        force: Add the bundle as the next version of a model that exists, which `dni-deploy triton` wrote.

    Returns:
        What was written.

    Raises:
        UsageError: The name is none or taken, or an option is not usable. Nothing was written.
        MismatchError: The network does not turn images into images, and the options are not raw.
        DniError: As Bundle.open raises, and where the folder cannot be written.
    """
    started = time.perf_counter()
    options = options or ModelOptions()
    bundle = Bundle.ensure_open(bundle_path)
    if name is None:
        name = Path(bundle.path if isinstance(bundle_path, Bundle) else bundle_path).resolve().stem
    written = write_model(Path(repository), name, bundle, options, force=force)
    paths = [path for path in written.folder.iterdir() if path.is_file()]
    paths += [path for path in (written.folder / str(written.version)).rglob("*") if path.is_file()]
    inputs = list_inputs(bundle.signature, raw=options.raw)
    outputs = list_outputs(bundle.signature, raw=options.raw)
    return TritonReport(
        os.fspath(repository),
        written.folder.name,
        written.version,
        written.older_versions,
        bundle.members,
        {each.name: each.describe() for each in inputs},
        {each.name: each.describe() for each in outputs},
        len(paths),
        sum(path.stat().st_size for path in paths),
        time.perf_counter() - started,
    )
