"""Networks of one channel that take luma: the numbers by float64, at every depth and scale, whole and in tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.errors import BundleError, EngineError, UsageError
from dni_deploy.imaging.frames import WHITE_LEVELS, from_network, to_luma, to_network
from dni_deploy.session.session import Session
from dni_deploy.session.tiles import render_tiled
from dni_deploy.signature import Signature
from engines import frame_conversion
from tests.support.frame_session import Dimmer

DTYPES = (np.uint8, np.uint16, np.float32)


def random_frame(dtype: Any, height: int = 21, width: int = 34) -> NDArray[Any]:
    values = np.random.default_rng(0).random((height, width, 3))
    return (values * WHITE_LEVELS[np.dtype(dtype)]).astype(dtype)


def luma_signature(**fields: Any) -> Signature:
    return Signature(1, 1, color="luma", **fields)


def render_in_float64(frame: NDArray[Any], factor: float, scale: int) -> NDArray[np.float64]:
    """Y by BT.601 through a network that multiplies by a factor and repeats pixels; Cb and Cr bicubic; back to RGB."""
    red, green, blue = np.moveaxis(frame.astype(np.float64), 2, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    cb, cr = (blue - luma) / 1.772, (red - luma) / 1.402
    size = (scale * frame.shape[1], scale * frame.shape[0])
    if scale > 1:
        cb, cr = (
            np.array(Image.fromarray(x.astype(np.float32)).resize(size, Image.Resampling.BICUBIC), float) for x in (cb, cr)
        )
    luma = luma.repeat(scale, 0).repeat(scale, 1) * factor
    red, blue = luma + 1.402 * cr, luma + 1.772 * cb
    blue, red = luma + 1.772 * cb, luma + 1.402 * cr
    green = (luma - 0.299 * red - 0.114 * blue) / 0.587
    return np.stack([red, green, blue], axis=2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_luma_goes_through_the_network_and_color_beside_it(dtype: Any, scale: int, factor: float) -> None:
    frame, white = random_frame(dtype), WHITE_LEVELS[np.dtype(dtype)]
    engine = Dimmer((factor, 0.0), scale=scale)
    signature = luma_signature(scale=scale, radius=0)
    with Session(engine, ("a", "b"), signature, Coefficients.one_hot("a", ("a", "b"))) as session:
        output = session(frame)
    expected = render_in_float64(frame, factor, scale)
    if dtype == np.float32:
        assert np.abs(output - expected).max() < 1e-6  # rounding of float32
        return
    assert output.dtype == dtype
    assert np.abs(output - np.clip(expected, 0, white)).max() < 0.5 + 1e-6 * white


def test_luma_in_arrays() -> None:
    signature = luma_signature(multiple=4, low=-1.0)
    frame = random_frame(np.uint8, 5, 7)
    x = to_network(frame, signature)
    assert x.shape == (1, 1, 8, 8)
    assert np.array_equal(frame_conversion.to_network(frame, signature), x)
    luma = frame @ np.array([0.299, 0.587, 0.114])
    assert np.abs(x[0, 0, :5, :7] - (luma / 255 * 2 - 1)).max() < 1e-6
    assert np.array_equal(x[0, 0, 5:, :7], x[0, 0, 3:0:-1, :7])
    assert np.array_equal(from_network(x, frame, signature), frame)
    assert np.array_equal(frame_conversion.from_network(x, frame, signature), frame)


def test_gray_is_its_own_luma() -> None:
    gray = np.repeat(np.arange(65536, dtype=np.uint16)[None, :, None], 3, axis=2)
    assert np.array_equal(to_luma(gray)[0], np.arange(65536))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_residual_network_of_luma_is_subtracted_from_luma(dtype: Any) -> None:
    frame = random_frame(dtype)
    signature = luma_signature(residual=True)
    noise = np.full((1, 1, *frame.shape[:2]), 0.25, np.float32)
    white = WHITE_LEVELS[np.dtype(dtype)]
    expected = np.clip(frame - 0.25 * white, 0, white) if dtype != np.float32 else frame - 0.25
    assert np.abs(from_network(noise, frame, signature) - expected).max() <= (1e-6 if dtype == np.float32 else 0.51)


@pytest.mark.parametrize("scale", [1, 2])
def test_tiles_are_joined_without_seams(scale: int) -> None:
    frame = random_frame(np.uint8, 70, 90)
    signature = luma_signature(scale=scale, radius=0)
    with Session(Dimmer((1.0, 0.0), scale=scale), ("a", "b"), signature, Coefficients.one_hot("a", ("a", "b"))) as session:
        whole = render_tiled(session, frame, tile=0).output
        tiled = render_tiled(session, frame, tile=24).output
        assert np.array_equal(session.render_pixels(frame).pixels.shape, (3, *whole.shape[:2]))
    assert np.abs(whole.astype(int) - tiled).max() <= (0 if scale == 1 else 1)


def test_an_output_of_three_images_is_refused() -> None:
    frame = random_frame(np.uint8)
    with pytest.raises(EngineError, match=r"\(1, 1, 21, 34\) was expected"):
        from_network(np.zeros((3, 1, 21, 34), np.float32), frame, luma_signature())


def test_the_manifest_says_luma_and_nothing_where_it_is_as_before() -> None:
    signature = luma_signature(scale=2)
    assert signature.frame_batch == 1
    assert Signature(1, 1).frame_batch == 3
    assert signature.to_json()["color"] == "luma"
    assert Signature.from_json(signature.to_json()) == signature
    assert "color" not in Signature(1, 1).to_json()
    assert "luma" in signature.describe()
    for fields in ({**signature.to_json(), "color": "hue"}, {**Signature().to_json(), "color": "luma"}):
        with pytest.raises(BundleError, match="'color'"):
            Signature.from_json(fields)


def test_frames_in_a_gpu_are_refused() -> None:
    class OnGpu:
        __cuda_array_interface__ = None

    with pytest.raises(UsageError, match="A frame is"):
        frame_conversion.render_on_host(lambda x: x, OnGpu(), luma_signature())
