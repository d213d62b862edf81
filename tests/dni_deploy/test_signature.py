"""Signature: the description of a network's input and output round-trips through JSON, and unknown fields are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dni_deploy.errors import BundleError
from dni_deploy.signature import Signature

EXAMPLES = (
    Signature(),
    Signature(1, 1, radius=17, residual=True),
    Signature(scale=4, low=-1.0),
    Signature(100, kind="latent"),
    Signature(multiple=4, minimum=18),
)


@pytest.mark.parametrize("signature", EXAMPLES)
def test_signature_json_round_trip(signature: Signature) -> None:
    assert Signature.from_json(json.loads(json.dumps(signature.to_json()))) == signature


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input_channels", 0), ("input_channels", 2**16), ("output_channels", True), ("scale", 2.0), ("scale", "2"),
        ("multiple", -1), ("minimum", 0), ("low", "0"), ("low", None), ("low", float("nan")), ("low", 1.0), ("high", float("inf")),
        ("high", [1]), ("residual", 1), ("radius", -1), ("radius", 1.5), ("kind", "video"), ("kind", None),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(field: str, value: Any) -> None:
    with pytest.raises(BundleError, match="signature"):
        Signature.from_json({**Signature().to_json(), field: value})


@pytest.mark.parametrize("fields", [None, [], {}, {**Signature().to_json(), "extra": 1}])
def test_unknown_fields_are_refused(fields: Any) -> None:
    with pytest.raises(BundleError, match="signature"):
        Signature.from_json(fields)


def test_a_minimum_of_one_is_stored_as_none() -> None:
    fields = Signature(scale=2).to_json()
    assert "minimum" not in fields
    assert Signature.from_json({**fields, "minimum": 1}) == Signature(scale=2)


def test_sides_are_rounded_up_to_the_minimum_and_the_multiple() -> None:
    signature = Signature(multiple=4, minimum=18)
    assert [signature.round_up_side(side) for side in (1, 18, 20, 21)] == [20, 20, 20, 24]
    assert signature.describe().endswith("sides in multiples of 4, at least 20 pixels a side")
