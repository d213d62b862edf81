"""On a GPU: the same checks as on the host, on the machine's own GPU, in a process without fakes."""

from __future__ import annotations

import pytest

from tests.support.needs_gpu import need_gpu, run_gpu_program


@pytest.mark.gpu
def test_kernels_and_blender_on_this_gpu() -> None:
    need_gpu()
    run_gpu_program("tests.engines.cuda.on_gpu")
