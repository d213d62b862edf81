"""SRVGGNetCompact: activations that cannot be told apart are refused."""

from __future__ import annotations

import pytest

from dni_deploy.errors import MismatchError
from exporters.architectures.compact import SRVGGNetCompact
from exporters.architectures.registry import find_architecture


def test_compact_without_slopes_is_refused_rather_than_guessed_at() -> None:
    net = SRVGGNetCompact(3, 4, 2, 2, activation="leakyrelu")
    with pytest.raises(MismatchError, match="slopes of a PReLU"):
        find_architecture("compact", {key: value.detach().numpy() for key, value in net.state_dict().items()})
