"""Test inputs fit the network's signature, and have a reference where one exists."""

from __future__ import annotations

import numpy as np
import pytest

from dni_deploy.compatibility.probes import add_noise, is_restoration_network, make_sample_inputs
from dni_deploy.errors import MismatchError
from dni_deploy.signature import Signature

RGB = np.ascontiguousarray(np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 256, 3)))


@pytest.mark.parametrize(
    ("signature", "shape"),
    [
        (Signature(), (1, 3, 128, 128)),
        (Signature(input_channels=1, multiple=10), (1, 1, 120, 120)),
        (Signature(input_channels=4, multiple=192), (1, 4, 192, 192)),
        (Signature(scale=4), (1, 3, 64, 64)),
        (Signature(multiple=4, minimum=150), (1, 3, 152, 152)),
        (Signature(scale=4, minimum=80), (1, 3, 80, 80)),
        (Signature(input_channels=7, kind="latent"), (16, 7, 1, 1)),
    ],
)
def test_input_fits_the_signature(signature: Signature, shape: tuple[int, ...]) -> None:
    [probe] = make_sample_inputs(signature, [("x", RGB)])
    assert (probe.x.shape, probe.x.dtype) == (shape, np.float32)
    assert (probe.reference is None) == (signature.scale == 1)
    if probe.reference is not None:
        assert probe.reference.shape == (1, 3, *(signature.scale * side for side in shape[2:]))
    if signature.kind == "image":
        assert 0 <= probe.x.min() < 0.3 < 0.7 < probe.x.max() <= 1
        small = np.full((5, 300, 3), 255, np.uint8)
        assert (make_sample_inputs(Signature(low=-1.0, high=1.0, multiple=4), [("white", small)])[0].x == 1).all()


def test_references_are_cropped_with_their_image() -> None:
    """The middle of a 200 x 200 image, and the same place of a reference twice as large."""
    rgb = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    reference = rgb.repeat(2, axis=0).repeat(2, axis=1)
    [sample] = make_sample_inputs(Signature(scale=2), [("x", rgb)], [reference])
    assert sample.reference is not None
    assert (sample.x.shape, sample.reference.shape) == ((1, 3, 128, 128), (1, 3, 256, 256))
    assert np.array_equal(sample.reference[..., ::2, ::2], sample.x)
    with pytest.raises(MismatchError, match="x is 50x50; with a reference at least 192x192 are needed"):
        make_sample_inputs(Signature(multiple=192), [("x", rgb[:50, :50])], [rgb[:50, :50]])


def test_noise_is_seeded_and_clipped() -> None:
    signature = Signature(low=-1.0, high=1.0)
    [clean] = make_sample_inputs(signature, [("x", RGB)])
    noisy = add_noise(clean, signature, 40)
    assert (noisy.name, noisy.noise, clean.noise) == ("x, noise 40", 40, 0)
    assert noisy.reference is clean.x
    assert -1 <= noisy.x.min() < noisy.x.max() <= 1
    assert np.array_equal(noisy.x, add_noise(clean, signature, 40).x)
    assert is_restoration_network(signature, clean.x, [clean.x])
    assert not is_restoration_network(signature, clean.x, [clean.x, -clean.x])
