"""Progress is reported only if there is a callback."""

from __future__ import annotations

from dni_deploy.utils.progress import report_progress


def test_progress_is_optional() -> None:
    calls: list[tuple[int, int, str]] = []
    report_progress(lambda *call: calls.append(call), 1, 3, "writing")
    report_progress(None, 2, 3, "done")
    assert calls == [(1, 3, "writing")]
