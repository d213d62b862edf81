"""SessionOptions refuses invalid values and passes each engine option to the engine."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from dni_deploy.errors import UsageError
from dni_deploy.session.options import SessionOptions
from engines.interface import EngineOptions


def test_the_defaults_are_those_of_an_engine_that_is_chosen_automatically() -> None:
    options = SessionOptions()
    assert (options.engine, options.rules, options.extrapolate) == ("auto", (), False)
    assert options.engine_options == EngineOptions()


def test_every_engine_option_reaches_the_engine() -> None:
    values: dict[str, Any] = {"threads": 3, "slots": 2, "precision": "fp16", "cuda_graph": True, "device": 1}
    values |= {"plan": "1" * 64, "trust_plans_of": ("0",)}
    assert set(values) == {field.name for field in fields(EngineOptions)}, "a new option needs a value here"
    assert SessionOptions(**values).engine_options == EngineOptions(**values)


@pytest.mark.parametrize(("slots", "engine_slots"), [(None, 2), (2, 2), (3, 3)])
def test_async_refit_opens_two_slots_unless_the_caller_chose_a_number(slots: int | None, engine_slots: int) -> None:
    options = SessionOptions(async_refit=True, slots=slots)
    assert options.slots == slots
    assert options.engine_options.slots == engine_slots


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"engine": "warp"}, "no engine 'warp'; there are auto, tensorrt"),
        ({"trust_plans_of": ["no such user"]}, "There is no user no such user here"),
        ({"precision": "fp8"}, "precision is fp32, tf32 or fp16; got fp8"),
        ({"threads": -1}, "threads is a whole number"),
        ({"device": -1}, "device is the number of a GPU"),
        ({"slots": 0}, "slots is how many"),
        ({"async_refit": True, "slots": 1}, "async_refit needs 2 slots"),
        ({"rules": "norm:*=0.2"}, "Rules are a list"),
    ],
)
def test_invalid_options_are_refused_at_construction(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SessionOptions(**values)


def test_options_can_be_shared_because_nothing_changes_them() -> None:
    rules = ["norm:*=0.2"]
    options = SessionOptions(rules=rules)
    rules.append("bias:*=0.5")
    assert options.rules == ("norm:*=0.2",)
    with pytest.raises(FrozenInstanceError):
        options.threads = 2  # type: ignore[misc]
