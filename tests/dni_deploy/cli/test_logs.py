"""-v shows on stderr what dni-deploy chose and how long it took, and nothing from other libraries."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from dni_deploy.cli import main as entry_point
from dni_deploy.cli.logs import LOGGED_PACKAGES, hide_logs, show_logs

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _quiet_afterwards() -> Iterator[None]:
    yield
    hide_logs()


def log_one_of_each() -> None:
    for name in ("dni_deploy.session.session", "engines.registry", "exporters.cache", "PIL.PngImagePlugin"):
        logging.getLogger(name).info("info of %s", name)
        logging.getLogger(name).debug("debug of %s", name)


@pytest.mark.parametrize(("verbosity", "levels"), [(0, []), (1, ["info"]), (2, ["info", "debug"]), (3, ["info", "debug"])])
def test_the_count_chooses_the_level(verbosity: int, levels: list[str], capsys: Capture) -> None:
    show_logs(verbosity)
    log_one_of_each()
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(": ", 1)[1] for line in err.splitlines()] == [
        f"{level} of {name}"
        for name in ("dni_deploy.session.session", "engines.registry", "exporters.cache")
        for level in levels
    ]


def test_other_libraries_and_the_root_are_left_alone() -> None:
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    show_logs(2)
    assert (root.level, root.handlers) == before
    assert not logging.getLogger("PIL").isEnabledFor(logging.INFO)


def test_a_message_is_logged_once_after_repeated_log_setup(capsys: Capture) -> None:
    show_logs(1)
    show_logs(1)
    logging.getLogger("engines").info("once")
    assert capsys.readouterr().err.count("once") == 1


def test_control_characters_of_a_message_do_not_reach_the_terminal(capsys: Capture) -> None:
    show_logs(1)
    logging.getLogger("engines").info("a\x1b[2Jb")
    assert "a\\x1b[2Jb" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "level"),
    [
        (["doctor"], logging.NOTSET),
        (["-v", "doctor"], logging.INFO),
        (["doctor", "-v"], logging.INFO),
        (["-vv", "doctor"], logging.DEBUG),
        (["doctor", "-vv"], logging.DEBUG),
        (["-v", "doctor", "-v"], logging.DEBUG),
    ],
)
def test_v_may_stand_before_and_after_the_command(args: list[str], level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    levels: list[int] = []

    def doctor() -> object:
        levels.extend({logging.getLogger(name).level for name in LOGGED_PACKAGES})
        raise KeyboardInterrupt

    monkeypatch.setattr("dni_deploy.api.doctor.doctor", doctor)
    assert entry_point.main(args) == 130
    assert levels == [level]
    assert all(logging.getLogger(name).level == logging.NOTSET for name in LOGGED_PACKAGES), "left on after the command"
