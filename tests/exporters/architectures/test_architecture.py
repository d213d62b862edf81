"""An architecture builds a network from tensors, copies them, and says the first difference."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from dni_deploy.errors import MismatchError
from exporters.architectures.architecture import Architecture, shapes_of
from exporters.architectures.registry import ARCHITECTURES, find_architecture
from tests.exporters.architectures import public_names as public
from tests.support.pico_architectures import PICO, pico_state


def known(name: str) -> Architecture:
    return next(architecture for architecture in ARCHITECTURES if architecture.name == name)


def proposed(name: str, shapes: public.Shapes) -> nn.Module:
    with torch.device("meta"):
        return known(name).infer_hyperparameters(shapes)


def test_counters_are_ignored_and_floats_become_float32() -> None:
    state = {key: value for key, value in pico_state("dncnn_bn").items() if not key.endswith("num_batches_tracked")}
    for dtype in (np.float16, np.float64):
        converted = {key: value.astype(dtype) for key, value in state.items()}
        net = find_architecture("auto", converted).build(converted)
        for key, value in converted.items():
            assert net.state_dict()[key].dtype == torch.float32
            np.testing.assert_array_equal(net.state_dict()[key].numpy(), value.astype(np.float32))
        assert int(net.state_dict()["model.3.num_batches_tracked"]) == 0


def test_build_copies_what_it_is_given() -> None:
    state = pico_state("compact_x2")
    for value in state.values():
        value.setflags(write=False)
    net = find_architecture("auto", state).build(state)
    before = state["body.0.bias"].copy()
    next(iter(net.parameters())).add_(1)
    net.state_dict()["body.0.bias"].add_(1)
    np.testing.assert_array_equal(state["body.0.bias"], before)


def test_a_named_architecture_that_does_not_fit_says_the_first_difference() -> None:
    state = pico_state("compact")
    short = {key: value for key, value in state.items() if key != "body.4.bias"}
    wrong = {**state, "body.4.weight": state["body.4.weight"][:, :5]}
    more = {**state, "tail\x1b[2J": state["body.0.weight"]}
    cases = {
        "'body.4.bias' is missing": ("compact", short),
        r"'body.4.weight' has shape \(8, 5, 3, 3\) instead of \(8, 8, 3, 3\)": ("compact", wrong),
        r"'tail\\x1b\[2J' has no place in it": ("compact", more),
        "'model.0.weight' is missing": ("dncnn", state),
        "'conv1.weight' is missing": ("srcnn", state),
    }
    for message, (name, tensors) in cases.items():
        with pytest.raises(MismatchError, match=message) as caught:
            find_architecture(name, tensors)
        assert "\n" not in str(caught.value)
        with pytest.raises(MismatchError, match=message):
            known(name).build(tensors)


@pytest.mark.parametrize("name", PICO)
def test_damaged_state_dicts_are_refused_by_every_architecture(name: str) -> None:
    """One entry missing, emptied, transposed, of another rank or size: MismatchError each time, never another error."""
    chance = random.Random(name)
    shapes = {key: shape for key, shape in shapes_of(pico_state(name)).items() if not key.endswith("num_batches_tracked")}
    for key in chance.sample(list(shapes), min(12, len(shapes))):
        shape = shapes[key]
        damages = [(), (*shape, 1), (*shape[:-1], 0), (*shape[:-1], shape[-1] + 2), (2**40, *shape[1:]), (2**62,) * 4]
        for damaged in [{k: v for k, v in shapes.items() if k != key}, *({**shapes, key: damage} for damage in damages)]:
            for architecture in ARCHITECTURES:
                reason = architecture.describe_mismatch(
                    damaged
                )  # a last layer's width may be another network's: then all must fit
                assert reason is not None or architecture.name == PICO[name].architecture
                if reason is None:
                    assert shapes_of_proposed(architecture, damaged) == damaged


def shapes_of_proposed(architecture: Architecture, shapes: public.Shapes) -> public.Shapes:
    state = proposed(architecture.name, shapes).state_dict()
    return {key: tuple(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")}
