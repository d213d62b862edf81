"""Renders a picture at several alphas, and puts the results side by side.

python examples/strip.py sr.dni in.png strip.png
"""

import sys

import numpy as np
from PIL import Image

import dni_deploy as dni


def main(bundle: str, picture: str, output: str, count: int = 5) -> None:
    """Writes a picture with `count` versions, from the second member alone to the first one alone."""
    frame = np.asarray(Image.open(picture).convert("RGB"))
    with dni.open_session(bundle) as session:
        versions = [session(frame, alpha=position) for position in np.linspace(0, 1, count).tolist()]
    Image.fromarray(np.hstack(versions)).save(output)


if __name__ == "__main__":
    main(*sys.argv[1:4])
