"""Sheet: pictures side by side with a line of text each, as one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dni_deploy.errors import UsageError
from dni_deploy.imaging.frames import Frame

MAX_CELL_SIDE_PX = 512
"""Longest side of a picture on the sheet in pixels; larger ones are shown smaller, and the caption says so."""

GAP_PX = 10
TEXT_SIZE_PX = 15
BACKGROUND_COLOR, TEXT_COLOR, BEST_COLOR = (250, 249, 246), (29, 35, 41), (184, 66, 14)


def draw_contact_sheet(
    frames: Sequence[Frame],
    labels: Sequence[Sequence[str]],
    *,
    best_index: int | None = None,
    caption: str = "",
    columns: int = 0,
) -> Frame:
    """One picture of all frames, left to right and top to bottom; uint8 RGB, the caller's own.

    labels: the lines of text above each frame, as many lines for each. best: index of a frame to be framed in colour.
    columns: 0 for about as wide as high. Raises UsageError without frames or with another number of labels.
    """
    if not frames or len(frames) != len(labels):
        raise UsageError(
            f"A contact sheet needs a label for each picture; got {len(frames)} pictures and {len(labels)} labels."
        )
    longest = max(max(frame.shape[:2]) for frame in frames)
    factor = min(1.0, MAX_CELL_SIDE_PX / longest)
    pictures = [_shrink_image(frame, factor) for frame in frames]
    font = ImageFont.load_default(TEXT_SIZE_PX)
    lines = max(len(label) for label in labels)
    width = max(picture.width for picture in pictures)
    width = max(width, *(math.ceil(font.getlength(line)) for label in labels for line in label), 1)
    height = max(picture.height for picture in pictures)
    row = lines * (TEXT_SIZE_PX + 4) + height + 2 * GAP_PX
    columns = min(columns or max(1, math.ceil(math.sqrt(len(frames) * row / (width + GAP_PX)))), len(frames))
    rows = -(-len(frames) // columns)
    if factor < 1:
        caption += f"{'; ' if caption else ''}shown at {factor:.2f} of their size"
    sheet_width = max(GAP_PX + columns * (width + GAP_PX), math.ceil(font.getlength(caption)) + 2 * GAP_PX)
    sheet = Image.new("RGB", (sheet_width, GAP_PX + rows * row + (TEXT_SIZE_PX + GAP_PX if caption else 0)), BACKGROUND_COLOR)
    draw = ImageDraw.Draw(sheet)
    for index, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        left = GAP_PX + index % columns * (width + GAP_PX)
        top = GAP_PX + index // columns * row
        colour = BEST_COLOR if index == best_index else TEXT_COLOR
        for line in label:
            draw.text((left, top), line, fill=colour, font=font)
            top += TEXT_SIZE_PX + 4
        if index == best_index:
            draw.rectangle((left - 3, top - 3, left + picture.width + 2, top + picture.height + 2), outline=BEST_COLOR, width=3)
        sheet.paste(picture, (left, top))
    if caption:
        draw.text((GAP_PX, GAP_PX + rows * row), caption, fill=TEXT_COLOR, font=font)
    return np.array(sheet)


def _shrink_image(frame: Frame, factor: float) -> Image.Image:
    image = Image.fromarray(frame)
    if factor == 1.0:
        return image
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.LANCZOS)
