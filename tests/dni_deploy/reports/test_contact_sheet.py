"""A contact sheet shows every frame, outlines the best, and reduces large ones."""

from __future__ import annotations

import numpy as np
import pytest

from dni_deploy.errors import UsageError
from dni_deploy.reports.contact_sheet import BEST_COLOR, MAX_CELL_SIDE_PX, draw_contact_sheet

FRAMES = [np.full((20, 30, 3), value, np.uint8) for value in (1, 2, 3, 4)]
LABELS = [[f"frame {index}"] for index in range(4)]


def test_frames_are_pasted_as_they_are() -> None:
    sheet = draw_contact_sheet(FRAMES, LABELS, columns=2)
    for value in (1, 2, 3, 4):
        rows, columns = np.nonzero((sheet == value).all(axis=2))
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1, len(rows)) == (20, 30, 20 * 30)


def test_the_best_frame_has_an_outline() -> None:
    def count_outline(best_index: int | None) -> int:
        return int((draw_contact_sheet(FRAMES, [[""]] * 4, best_index=best_index) == BEST_COLOR).all(axis=2).sum())

    assert count_outline(None) == 0
    assert count_outline(1) == 36 * 26 - 30 * 20  # 3 pixels on each side


def test_large_frames_are_reduced_and_the_caption_takes_a_line() -> None:
    frame = np.zeros((4 * MAX_CELL_SIDE_PX, 100, 3), np.uint8)
    sheet = draw_contact_sheet([frame], [["x"]])
    assert MAX_CELL_SIDE_PX < sheet.shape[0] < MAX_CELL_SIDE_PX + 100
    assert draw_contact_sheet(FRAMES, LABELS, caption="c").shape[0] > draw_contact_sheet(FRAMES, LABELS).shape[0]


def test_each_frame_needs_a_label() -> None:
    for frames, labels in (([], []), (FRAMES, LABELS[:3])):
        with pytest.raises(UsageError, match="needs a label for each frame"):
            draw_contact_sheet(frames, labels)
