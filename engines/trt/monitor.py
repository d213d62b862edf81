"""Monitor: TensorRT's progress while it builds, told to ours."""

from __future__ import annotations

from typing import Any

import tensorrt as trt

from dni_deploy.utils.progress import OptionalProgress, report_progress


def make_progress_monitor(progress: OptionalProgress) -> Any:
    """A trt.IProgressMonitor, for TensorRTs that have it. `stopped` is then the exception that ended the build, or None."""

    class ProgressMonitor(trt.IProgressMonitor):  # type: ignore[misc]  # no types are shipped
        """Phases nest: the outermost one counts, the innermost one has the name. Called from any thread; must not raise."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped: BaseException | None = None
            self.phases: dict[str, tuple[str | None, int, int]] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases[phase_name] = (parent_phase, 0, num_steps)
            self._report_phase(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            parent, _, total = self.phases.get(phase_name, (None, 0, 1))
            self.phases[phase_name] = (parent, step + 1, total)
            self._report_phase(phase_name)
            return self.stopped is None

        def phase_finish(self, phase_name: str) -> None:
            self.phases.pop(phase_name, None)

        def _report_phase(self, name: str) -> None:
            outer = name
            for _ in self.phases:
                parent = self.phases.get(outer, (None, 0, 1))[0]
                if not parent or parent not in self.phases:
                    break
                outer = parent
            _, done, total = self.phases.get(outer, (None, 0, 1))
            try:
                report_progress(progress, min(done, total), max(total, 1), name)
            except BaseException as stopped:  # Ctrl-C too: it may not go through TensorRT, so it waits for its return
                self.stopped = stopped

    return ProgressMonitor()
