"""Which CUDA the installed packages are built for, and whether the driver serves it; read from their metadata, without an import."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires

from engines.cuda import driver

MIN_DRIVER_BRANCH = {12: 525, 13: 580}
"""The first NVIDIA driver by CUDA's major version. Source: CUDA's compatibility guide, "minor version compatibility"."""

ONNXRUNTIME_CUDA12, TENSORRT_CUDA12 = '"onnxruntime-gpu[cuda,cudnn]<1.27"', "tensorrt-cu12"
"""What pip installs for CUDA 12; onnxruntime-gpu 1.27 is the first for CUDA 13."""


def find_cuda_version(distribution: str) -> int | None:
    """Finds the CUDA that a distribution is built for.

    Args:
        distribution: Such as "onnxruntime-gpu"; one that adds the CUDA to this name, such as tensorrt-cu12, counts as it.

    Returns:
        The major version; None where it is not installed or does not tell.
    """
    for name in (distribution, *(f"{distribution}-cu{version}" for version in MIN_DRIVER_BRANCH)):
        try:
            requirements = requires(name) or []
        except PackageNotFoundError:
            continue
        # tensorrt requires tensorrt_cu13, and onnxruntime-gpu, for its extras, nvidia-cudnn-cu13
        match = re.search(r"[-_]cu(\d+)", " ".join((name, *requirements)))
        if match:
            return int(match[1])
    return None


def why_driver_too_old(distribution: str) -> str | None:
    """Tells that the driver does not serve the CUDA of an installed distribution.

    Args:
        distribution: As for `find_cuda_version`.

    Returns:
        One sentence without a full stop; None where nothing is known to be in the way.
    """
    answer, cuda = driver.query_driver(), find_cuda_version(distribution)
    if isinstance(answer, str) or cuda is None or cuda not in MIN_DRIVER_BRANCH or answer.version[0] >= cuda:
        return None
    major, minor = answer.version
    other = f", or pip install {ONNXRUNTIME_CUDA12} {TENSORRT_CUDA12}, which are for CUDA 12" if major == 12 else ""
    return (
        f"the installed {distribution} is for CUDA {cuda}, which needs an NVIDIA driver from {MIN_DRIVER_BRANCH[cuda]} on, and this "
        f"driver serves CUDA {major}.{minor}: update the driver{other}"
    )
