"""Kernels on the GPU: the very tests that the host's copy of them passes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engines.cuda import host_compiler
from tests.engines.cuda.test_kernels import (
    test_every_path_gives_the_same_bytes,
    test_float16_to_float32_and_back_as_numpy,
    test_fold,
    test_misaligned,
    test_one_member_with_share_one_is_copied,
    test_rows_of_a_convolution_are_scaled,
    test_sums,
    test_sums_of_a_million,
    test_the_most_members,
    test_the_sign_of_zero_survives,
)
from tests.engines.cuda.test_per_tensor_kernels import (
    test_a_row_with_one_share_of_1_copies_every_bit,
    test_rows_that_are_all_equal_give_the_plain_kernels_bytes,
)
from tests.engines.cuda.test_per_tensor_kernels import test_every_path_gives_the_same_bytes as test_every_path_by_row
from tests.engines.cuda.test_per_tensor_kernels import test_fold as test_fold_by_row
from tests.engines.cuda.test_per_tensor_kernels import test_rows_of_a_convolution_are_scaled as test_scaled_by_row
from tests.engines.cuda.test_per_tensor_kernels import test_sums as test_sums_by_row
from tests.gpu.device_launch import launch
from tests.support.needs_gpu import need_gpu

__all__ = [
    "test_a_row_with_one_share_of_1_copies_every_bit",
    "test_every_path_by_row",
    "test_every_path_gives_the_same_bytes",
    "test_float16_to_float32_and_back_as_numpy",
    "test_fold",
    "test_fold_by_row",
    "test_misaligned",
    "test_one_member_with_share_one_is_copied",
    "test_rows_of_a_convolution_are_scaled",
    "test_rows_that_are_all_equal_give_the_plain_kernels_bytes",
    "test_scaled_by_row",
    "test_sums",
    "test_sums_by_row",
    "test_sums_of_a_million",
    "test_the_most_members",
    "test_the_sign_of_zero_survives",
]


@pytest.fixture(autouse=True)
def on_the_device(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    need_gpu()
    if gpu is None:  # the fake GPU's own launches go through host_compiler.launch
        monkeypatch.setattr(host_compiler, "launch", launch)
        return
    there = host_compiler.launch
    inside = False

    def once(*arguments: Any) -> None:
        nonlocal inside
        if inside:
            there(*arguments)
            return
        inside = True
        try:
            launch(*arguments)
        finally:
            inside = False

    monkeypatch.setattr(host_compiler, "launch", once)
