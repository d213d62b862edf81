"""Opening SVT-AV1 as the superuser leaves no thread real-time: all else on the machine would wait for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("av", reason="video needs the extra `video`")

SCRIPT = """
import os
import sys
from fractions import Fraction

import av

from dni_deploy.video_io.scheduling import keep_scheduling

context = av.CodecContext.create("libsvtav1", "w")
context.width = context.height = 64
context.pix_fmt, context.time_base = "yuv420p", Fraction(1, 25)
if sys.argv[1] == "guarded":
    with keep_scheduling():
        context.open()
else:
    context.open()
policies = {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")}
os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
print(sorted(policies))
sys.stdout.flush()
os._exit(0)  # its threads are not waited for
"""


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler") or not os.path.isdir("/proc/self/task"), reason="needs Linux")
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only the superuser's threads become real-time")
@pytest.mark.parametrize(("how", "expected"), [("guarded", [0]), ("bare", [1])])
def test_opening_svt_av1_leaves_no_thread_real_time(how: str, expected: list[int]) -> None:
    command = [sys.executable, "-c", SCRIPT, how]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "libsvtav1" in run.stderr:
        pytest.skip("PyAV's FFmpeg has no SVT-AV1")
    assert run.stdout.strip() == str(expected), run.stderr
