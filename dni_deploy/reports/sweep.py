"""What a sweep found: a point for each alpha, which is best, and what it gains; of several images the mean, and each by itself."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dni_deploy.errors import DniError
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.metrics.psnr import format_db, to_json_number
from dni_deploy.reports.contact_sheet import draw_contact_sheet

MEAN_NAME = "mean"
"""What stands for an image's name in the rows of a table that are the mean over all images."""


@dataclass(frozen=True)
class ImageScores:
    """One image at every alpha of a sweep.

    Attributes:
        name: The image's.
        psnrs: In dB at each alpha; None without a reference.
        pixel_blend_psnrs: As SweepPoint has it; None unless there are two members and a reference.
        values: Of other metrics by name, at each alpha.
        frame_seconds: Time of the frame at each alpha.
    """

    name: str
    psnrs: tuple[float, ...] | None
    pixel_blend_psnrs: tuple[float, ...] | None
    values: Mapping[str, tuple[float, ...]]
    frame_seconds: tuple[float, ...]

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ImageScores:
        """Reads what `asdict` made of it, after JSON or not."""
        return cls(
            fields["name"],
            None if fields["psnrs"] is None else tuple(fields["psnrs"]),
            None if fields["pixel_blend_psnrs"] is None else tuple(fields["pixel_blend_psnrs"]),
            {name: tuple(values) for name, values in fields["values"].items()},
            tuple(fields["frame_seconds"]),
        )


@dataclass(frozen=True)
class SweepPoint:
    """One alpha.

    Attributes:
        coefficients: In family order, summing to 1.
        psnr: In dB, the mean over the images; infinite for an output that equals the reference, None without a reference.
        pixel_blend_psnr: PSNR in dB of blending the pixels of the two ends at this alpha instead; None unless there are two
            members and a reference.
        change_seconds: Time of the change of alpha in the running engine, blend and refit together.
        frame_seconds: Time of the frame that followed, the change not counted.
        values: Of other metrics by name, the mean over the images.
    """

    coefficients: tuple[float, ...]
    psnr: float | None
    pixel_blend_psnr: float | None
    change_seconds: float
    frame_seconds: float
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SweepReport:
    """What a sweep found.

    Attributes:
        members: The family's.
        engine: Its name.
        points: In the order of the sweep, at least two.
        best_index: Index of the best point; None without a reference.
        files: What was written.
        engine_reason: Why this engine was chosen.
        images: Of several images each by itself, in their order; empty for one.
        failures: The images that could not be measured and are in no mean: name, and why.
    """

    members: tuple[str, ...]
    engine: str
    points: tuple[SweepPoint, ...]
    best_index: int | None
    files: tuple[str, ...]
    engine_reason: str = ""
    images: tuple[ImageScores, ...] = ()
    failures: tuple[tuple[str, DniError], ...] = ()

    @property
    def change_seconds(self) -> float:
        """Median over the points but the first, whose alpha may have been set already."""
        return statistics.median(point.change_seconds for point in self.points[1:])

    @property
    def frame_seconds(self) -> float:
        """Median over the points but the first, which warms the engine up."""
        return statistics.median(point.frame_seconds for point in self.points[1:])

    @property
    def best_is_blend(self) -> bool | None:
        """Whether the best point is a blend, not a member by itself; None without a reference."""
        return None if self.best_index is None else max(self.points[self.best_index].coefficients) < 1

    @property
    def gain_db(self) -> float | None:
        """How many dB the best point is above the best member alone; None without a reference, or where it has no number."""
        best = None if self.best_index is None else self.points[self.best_index].psnr
        ends = [point.psnr for point in self.points if max(point.coefficients) == 1 and point.psnr is not None]
        return None if best is None or not ends or math.isinf(best) else best - max(ends)

    def format_finding(self) -> str:
        """Says in one sentence where the best alpha is and what it gains."""
        if self.best_index is None:
            return "Without a reference there is no best alpha."
        point = self.points[self.best_index]
        psnr = format_db(point.psnr if point.psnr is not None else math.nan)
        where = f"{psnr} at {describe_coefficients(self.members, point.coefficients)}"
        if len(self.images) > 1:
            where += f" (mean of {len(self.images)} images)"
        if not self.best_is_blend:
            return f"The best is an end of the sweep, {where}; no blend on this grid is better."
        if self.gain_db is None:
            return f"The best is a blend, {where}."
        return f"The best is a blend, {where}, {self.gain_db:.2f} dB above the better member alone."

    def to_json(self) -> dict[str, Any]:
        """Returns everything as JSON values."""
        best = None if self.best_index is None else self.points[self.best_index]
        return {
            "members": list(self.members),
            "engine": self.engine,
            "engine_reason": self.engine_reason,
            "best_alpha": None if best is None else dict(zip(self.members, best.coefficients, strict=True)),
            "best_psnr": None if best is None else to_json_number(best.psnr),
            "best_is_a_blend": self.best_is_blend,
            "gain_db": to_json_number(self.gain_db),
            "finding": self.format_finding() if best is not None else None,
            "change_ms": self.change_seconds * 1e3,
            "frame_ms": self.frame_seconds * 1e3,
            "files": list(self.files),
            "rows": [self._point_to_json(point) for point in self.points],
            "images": [self._image_to_json(image) for image in self.images],
            "failed": [{"image": name, "kind": error.kind, "message": str(error)} for name, error in self.failures],
        }

    def format_table(self) -> str:
        """Formats every image at every alpha, and then the mean of all, as CSV."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        values = tuple(self.points[0].values)
        has_pixels = self.points[0].pixel_blend_psnr is not None
        writer.writerow(["image", *self.members, "psnr", *["pixels_psnr"] * has_pixels, *values])
        for name, index, scores in self._list_scores():
            numbers = [scores["psnr"], *[scores["pixels_psnr"]] * has_pixels, *(scores[value] for value in values)]
            writer.writerow([name, *self.points[index].coefficients, *numbers])
        return text.getvalue()

    def _list_scores(self) -> Iterator[tuple[str, int, dict[str, float | None]]]:
        """Lists the rows of the table: name, index of the point, numbers by name."""
        for image in self.images:
            for index in range(len(self.points)):
                yield image.name, index, _select_scores(image, index)
        for index, point in enumerate(self.points):
            yield MEAN_NAME, index, {"psnr": point.psnr, "pixels_psnr": point.pixel_blend_psnr, **point.values}

    def _image_to_json(self, image: ImageScores) -> dict[str, Any]:
        psnrs = image.psnrs or ()
        best = max(range(len(psnrs)), key=lambda index: psnrs[index], default=None)
        return {
            "image": image.name,
            "best_alpha": None if best is None else dict(zip(self.members, self.points[best].coefficients, strict=True)),
            "rows": [
                {
                    name: to_json_number(value)
                    for name, value in _select_scores(image, index).items()
                    if name != "pixels_psnr" or value is not None
                }
                for index in range(len(self.points))
            ],
        }

    def _point_to_json(self, point: SweepPoint) -> dict[str, Any]:
        fields: dict[str, Any] = {"alpha": dict(zip(self.members, point.coefficients, strict=True))}
        if point.psnr is not None:
            fields |= {"psnr": to_json_number(point.psnr), "identical": math.isinf(point.psnr)}
        if point.pixel_blend_psnr is not None:
            fields["pixels_psnr"] = to_json_number(point.pixel_blend_psnr)
        fields |= {name: to_json_number(value) for name, value in point.values.items()}
        return fields | {"change_ms": point.change_seconds * 1e3, "frame_ms": point.frame_seconds * 1e3}


def _select_scores(image: ImageScores, index: int) -> dict[str, float | None]:
    """Selects what an image has at one alpha."""
    return {
        "psnr": None if image.psnrs is None else image.psnrs[index],
        "pixels_psnr": None if image.pixel_blend_psnrs is None else image.pixel_blend_psnrs[index],
        **{name: values[index] for name, values in image.values.items()},
    }


def summarize_points(
    path: Sequence[tuple[float, ...]], images: Sequence[ImageScores], change_seconds: Sequence[Sequence[float]]
) -> tuple[SweepPoint, ...]:
    """Makes the points of a sweep: means of the metrics over the images in their order, medians of the times.

    Args:
        path: The coefficients of each point.
        images: At least one.
        change_seconds: Times of the changes of alpha, a row of as many for each time that the path was gone along.
    """
    return tuple(
        SweepPoint(
            coefficients,
            _mean_at(index, [image.psnrs for image in images]),
            _mean_at(index, [image.pixel_blend_psnrs for image in images]),
            statistics.median(times[index] for times in change_seconds),
            statistics.median(image.frame_seconds[index] for image in images),
            {name: statistics.fmean(image.values[name][index] for image in images) for name in images[0].values},
        )
        for index, coefficients in enumerate(path)
    )


def _mean_at(index: int, rows: Sequence[Sequence[float] | None]) -> float | None:
    values = [row[index] for row in rows if row is not None]
    return statistics.fmean(values) if values else None


def find_best_point(points: Sequence[SweepPoint]) -> int | None:
    """Returns the index of the highest PSNR; None without a reference."""
    if any(point.psnr is None for point in points):
        return None
    return max(range(len(points)), key=lambda index: points[index].psnr or 0.0)


def describe_coefficients(members: Sequence[str], coefficients: Sequence[float]) -> str:
    """Names the members with their shares: "N20 0.35, N60 0.65". Of more than two members only those with a share."""
    shares = [(name, share) for name, share in zip(members, coefficients, strict=True) if share or len(members) == 2]
    return ", ".join(f"{name} {share:.4g}" for name, share in shares)


def draw_sweep_sheet(frames: Sequence[Frame], report: SweepReport, title: str) -> Frame:
    """Draws the contact sheet: alpha, the members with their shares, and PSNR above each frame; the best is outlined.

    Args:
        frames: The output at each point, uint8 (H, W, 3).
        report: The sweep.
        title: What stands below the frames.

    Returns:
        uint8 (H', W', 3); the caller's own.
    """
    labels = [
        [
            *([f"alpha {point.coefficients[0]:.4g}"] if len(report.members) == 2 else []),
            describe_coefficients(report.members, point.coefficients),
            *([] if point.psnr is None else [format_db(point.psnr)]),
        ]
        for point in report.points
    ]
    return draw_contact_sheet(frames, labels, best_index=report.best_index, caption=title)
