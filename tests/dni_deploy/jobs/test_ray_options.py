"""Wrong numbers and addresses are refused before Ray is imported."""

from __future__ import annotations

from typing import Any

import pytest

from dni_deploy.errors import UsageError
from dni_deploy.jobs.ray_options import RayOptions, parse_address


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("10.0.0.5:6379", "10.0.0.5", 6379),
        ("head:1", "head", 1),
        ("ray://head.example.com:10001", "head.example.com", 10001),
        ("[fe80::1]:6379", "fe80::1", 6379),
    ],
)
def test_addresses_are_parsed(address: str, host: str, port: int) -> None:
    assert parse_address(address) == (host, port)
    assert RayOptions(ray=address).ray == address


@pytest.mark.parametrize(
    "address",
    ["", "head", "head:", ":6379", "head:0", "head:65536", "http://head:6379", "head:6379/x", "a b:1", "u@h:1", "Auto"],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="none of auto, local, HOST:PORT"):
        RayOptions(ray=address)


@pytest.mark.parametrize("options", [{"gpus": 0.25}, {"gpus": 0}, {"gpus": 4}, {"workers": 1, "cpus": 3, "retries": 1}])
def test_numbers_in_range_are_taken(options: dict[str, Any]) -> None:
    RayOptions(ray="auto", **options)


@pytest.mark.parametrize(
    "options",
    [{"gpus": 1.5}, {"gpus": -1}, {"gpus": float("nan")}, {"gpus": float("inf")}, {"workers": 0}, {"cpus": 0}, {"retries": 0}],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"--{next(iter(options))} "):
        RayOptions(ray="auto", **options)
