"""log_duration logs a completed step, and none that failed."""

from __future__ import annotations

import logging
import re

import pytest

from dni_deploy.utils.log_duration import log_duration

log = logging.getLogger("dni_deploy.test")


def test_the_step_is_named_with_its_seconds(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dni_deploy"), log_duration(log, "verifying the graph"):
        pass
    assert re.fullmatch(r"verifying the graph took 0\.\d{3} s", caplog.messages[0])


def test_a_failed_step_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dni_deploy"), pytest.raises(KeyError), log_duration(log, "step"):
        raise KeyError
    assert not caplog.messages
