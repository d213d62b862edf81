"""The measurement of one process, written to disk after every figure."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu import result as results
from benchmarks.gpu.case import run_case
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.modes import GpuBackendMode, build_plan, max_plan_size
from benchmarks.gpu.prepared import PreparedNetwork
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import DniError

LARGE_FAMILY_PARAMETERS = 100_000_000
"""Parameters per member of the large synthetic family, which has no network."""


@dataclass
class Measurement:
    """One process's measurement.

    Attributes:
        prepared_folder: What `--prepare` wrote.
        work: Folder of bundles and plans.
        result: The result so far.
        output: JSON file, written after every figure; None for none.
        deadline: Of time.monotonic, after which nothing more begins.
        build_missing: Build plans that are missing; else their rows are skipped.
        seconds: Of timing per case.
    """

    prepared_folder: Path
    work: Path
    result: results.Result
    output: Path | None = None
    deadline: float = field(default_factory=lambda: time.monotonic() + 1e9)
    build_missing: bool = True
    seconds: float = 12.0

    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    def network(self, name: str) -> PreparedNetwork:
        return PreparedNetwork.load(self.prepared_folder, name)

    def bundle(self, prepared: PreparedNetwork, shape: tuple[int, int]) -> Bundle:
        """Opens or writes the bundle for this plan size; there is one per plan size."""
        self.work.mkdir(parents=True, exist_ok=True)
        return prepared.bundle(self.work / "{}-{}x{}.dni".format(prepared.name, *max_plan_size(shape)))

    def build(
        self,
        names: Sequence[str],
        shapes: Sequence[tuple[int, int]],
        precisions: Sequence[str],
        modes: Sequence[GpuBackendMode],
    ) -> bool:
        """Builds the plans that the modes need that can run here, until the deadline; returns whether none failed."""
        succeeded = True
        engines = dict.fromkeys(mode.engine for mode in modes if mode.engine is not None and mode.unavailable_reason() is None)
        for name, max_size in itertools.product(names, dict.fromkeys(map(max_plan_size, shapes))):
            bundle = self.bundle(self.network(name), max_size)
            for precision in precisions:
                for engine in engines:
                    if self.seconds_left() <= 0:
                        return succeeded
                    started = time.monotonic()
                    try:
                        build_plan(bundle, engine, precision, max_size)
                        report(f"{name} {precision} {engine}: {time.monotonic() - started:.0f} s")
                    except DniError as error:
                        report(f"{name} {precision} {engine}: {error}")
                        succeeded = False
        return succeeded

    def cases(
        self,
        names: Sequence[str],
        shapes: Sequence[tuple[int, int]],
        precisions: Sequence[str],
        modes: Sequence[GpuBackendMode],
        clock: Clock,
    ) -> None:
        """Times every network at every shape and precision until the deadline."""
        for shape in shapes:
            for precision in precisions:
                for name in names:
                    if not modes or self.seconds_left() <= 0:
                        return
                    report(f"{name} {shape[1]}x{shape[0]} {precision}")
                    prepared = self.network(name)
                    case = run_case(
                        prepared,
                        self.prepared_folder,
                        self.bundle(prepared, shape),
                        shape,
                        precision,
                        modes,
                        clock,
                        build_missing=self.build_missing,
                        seconds=self.seconds,
                        budget=self.seconds_left(),
                        report=report,
                        keep=self._keep,
                    )
                    self._keep(case)

    def kernel(
        self, names: Sequence[str], precisions: Sequence[str], clock: Clock, large: int = LARGE_FAMILY_PARAMETERS
    ) -> None:
        """Measures the limits of the GPU, and the blend kernel for every network's weights and for a large family."""
        from benchmarks.gpu.ceilings import measure_copy_rate, measure_matrix_rates
        from benchmarks.gpu.kernel import make_synthetic_family, measure, random_members
        from engines.cuda.device import Device
        from engines.lowering.gpu import lower_for_gpu

        device = Device.open(0)
        try:
            with device:
                report("ceilings")
                copy = measure_copy_rate(device, clock)
                self.result["parts"][0]["ceilings"] = {"copy": copy, "products": measure_matrix_rates()}
                self.write()
                for name in names:
                    report(f"kernel, {name}")
                    prepared = self.network(name)
                    members = list(prepared.states().values())
                    for precision in precisions:
                        lowered = lower_for_gpu(prepared.graph, tuple(prepared.shapes), precision)
                        figures = measure(device, lowered, members, clock, copy)
                        self._kernel(prepared.title, name, precision, "fp32", figures)
                        if precision == "fp16" and name == "rrdb":
                            halves = [{key: value.astype("float16") for key, value in member.items()} for member in members]
                            figures = measure(device, lowered, halves, clock, copy)
                            self._kernel(prepared.title, name, precision, "fp16", figures)
                for precision in precisions if large and self.seconds_left() > 0 else ():
                    report(f"kernel, {large} numbers")
                    lowered = make_synthetic_family(large, precision)
                    many = random_members(lowered, 4, lowered.weights[0].dtype)
                    figures = measure(device, lowered, many, clock, copy)
                    self._kernel(f"{large / 1e6:g} M parameters", "large", precision, precision, figures)
        finally:
            device.close()

    def _keep(self, case: dict[str, Any]) -> None:
        """Stores a case, replacing its earlier result."""
        self.result["cases"].append({"part": 0, **case})
        merged = results.merge_results([self.result])
        self.result["cases"] = merged["cases"]
        self.write()

    def _kernel(self, title: str, network: str, precision: str, members: str, figures: dict[str, Any]) -> None:
        label = f"{title}, {precision} from {figures['members']} {members} members"
        facts = {"part": 0, "label": label, "network": network, "precision": precision, "as_in_cases": members == "fp32"}
        self.result["kernel"].append({**facts, **figures})
        self.write()

    def write(self) -> None:
        if self.output is not None:
            results.write(self.output, results.merge_results([self.result]))


def report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
