"""Element types: stored values become the same numbers in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from dni_deploy.checkpoints.dtypes import STORED_DTYPES, convert_elements, make_dtype_error


@pytest.mark.parametrize("dtype", STORED_DTYPES)
def test_every_stored_dtype_becomes_native(dtype: str) -> None:
    stored = np.arange(6).astype(STORED_DTYPES[dtype]).reshape(2, 3)
    array = convert_elements(stored, dtype)
    assert array.shape == (2, 3)
    assert array.dtype.isnative
    assert array.dtype == np.dtype({"bfloat16": "float32", "bool": "bool"}.get(dtype, dtype))


def test_bfloat16_is_the_upper_half_of_float32() -> None:
    stored = np.array([0x3FC0, 0x8000, 0x7F80], "<u2")
    assert convert_elements(stored, "bfloat16").tobytes() == np.array([1.5, -0.0, np.inf], np.float32).tobytes()
    assert convert_elements(stored[0].reshape(()), "bfloat16").shape == ()


def test_bool_is_any_nonzero_byte() -> None:
    assert convert_elements(np.array([0, 1, 2, 255], "u1"), "bool").tolist() == [False, True, True, True]


def test_other_byte_orders_are_swapped() -> None:
    assert convert_elements(np.array([1, 2], ">f4"), "float32").tolist() == [1, 2]


def test_the_error_is_safe_to_print() -> None:
    message = str(make_dtype_error("F\x1b" + "9" * 100, "w\n" * 100, "x.pth"))
    assert message.isprintable()
    assert len(message) < 250
