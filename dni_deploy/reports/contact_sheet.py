"""Contact sheet: frames side by side with lines of text each, as one frame."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dni_deploy.errors import UsageError
from dni_deploy.imaging.frames import Frame

MAX_CELL_SIDE_PX = 512
"""Longest side of a frame on the sheet; larger ones are reduced, and the caption says so."""

GAP_PX = 10
TEXT_SIZE_PX = 15
LINE_HEIGHT_PX = TEXT_SIZE_PX + 4
BACKGROUND_COLOR, TEXT_COLOR, BEST_COLOR = (250, 249, 246), (29, 35, 41), (184, 66, 14)


def draw_contact_sheet(
    frames: Sequence[Frame],
    labels: Sequence[Sequence[str]],
    *,
    best_index: int | None = None,
    caption: str = "",
    columns: int = 0,
) -> Frame:
    """Draws all frames left to right and top to bottom.

    Args:
        frames: uint8 (H, W, 3), at least one.
        labels: The lines of text above each frame.
        best_index: Index of a frame that is outlined in color.
        caption: A line below the frames.
        columns: Number of columns; 0 for about as wide as high.

    Returns:
        uint8 (H', W', 3); the caller's own.

    Raises:
        UsageError: There are no frames, or another number of labels.
    """
    if not frames or len(frames) != len(labels):
        raise UsageError(f"A contact sheet needs a label for each frame; got {len(frames)} frames and {len(labels)} labels.")
    factor = min(1.0, MAX_CELL_SIDE_PX / max(max(frame.shape[:2]) for frame in frames))
    images = [_shrink_image(frame, factor) for frame in frames]
    if factor < 1:
        caption += f"{'; ' if caption else ''}shown at {factor:.2f} of their size"
    font = ImageFont.load_default(TEXT_SIZE_PX)
    text_width = max(math.ceil(font.getlength(line)) for label in labels for line in label or [""])
    cell_width = max(text_width, *(image.width for image in images)) + GAP_PX
    text_height = LINE_HEIGHT_PX * max(len(label) for label in labels)
    cell_height = text_height + max(image.height for image in images) + 2 * GAP_PX
    columns = min(columns or max(1, math.ceil(math.sqrt(len(frames) * cell_height / cell_width))), len(frames))
    rows = -(-len(frames) // columns)
    sheet_width = max(GAP_PX + columns * cell_width, math.ceil(font.getlength(caption)) + 2 * GAP_PX)
    sheet_height = GAP_PX + rows * cell_height + (TEXT_SIZE_PX + GAP_PX if caption else 0)
    sheet = Image.new("RGB", (sheet_width, sheet_height), BACKGROUND_COLOR)
    draw = ImageDraw.Draw(sheet)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        row, column = divmod(index, columns)
        left, top = GAP_PX + column * cell_width, GAP_PX + row * cell_height
        for line in label:
            draw.text((left, top), line, fill=BEST_COLOR if index == best_index else TEXT_COLOR, font=font)
            top += LINE_HEIGHT_PX
        if index == best_index:
            draw.rectangle((left - 3, top - 3, left + image.width + 2, top + image.height + 2), outline=BEST_COLOR, width=3)
        sheet.paste(image, (left, top))
    if caption:
        draw.text((GAP_PX, GAP_PX + rows * cell_height), caption, fill=TEXT_COLOR, font=font)
    return np.array(sheet)


def _shrink_image(frame: Frame, factor: float) -> Image.Image:
    image = Image.fromarray(frame)
    if factor == 1.0:
        return image
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.LANCZOS)
