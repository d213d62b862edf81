"""An alpha and a picture of it as a fragment of HTML, for a notebook."""

from __future__ import annotations

from html import escape
from importlib.resources import files

import numpy as np
from PIL import Image

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.errors import escape_name
from dni_deploy.imaging.frame_encoding import encode_data_uri
from dni_deploy.imaging.frames import Frame


def format_html(title: str, coefficients: Coefficients, picture: Frame | None) -> str:
    """Formats an alpha as bars, with a picture of it.

    Args:
        title: One line.
        coefficients: The alpha.
        picture: uint8 (H, W, 3); None: bars alone.

    Returns:
        A fragment of HTML, which loads nothing from outside.
    """
    bars = "".join(
        f'<tr><td>{escape(escape_name(name))}</td><td><meter value="{share:.6g}"></meter></td><td>{share:.6g}</td></tr>'
        for name, share in zip(coefficients.members, coefficients.values, strict=True)
    )
    image = "" if picture is None else f'<img alt="A frame at this alpha" src="{encode_data_uri(picture)}">'
    return f"<p><code>{escape(title)}</code></p><table>{bars}</table>{image}"


def read_sample() -> Frame:
    """Reads the photograph on which a notebook shows an alpha, uint8 (96, 96, 3): a face, since faces show most."""
    with (files("dni_deploy") / "data" / "astronaut.png").open("rb") as file:
        photograph = Image.open(file, formats=("PNG",)).convert("RGB")
    return np.array(photograph.crop((76, 40, 172, 136)))
