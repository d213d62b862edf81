"""Super-resolution: interpolated networks against interpolated images, from MSE to GAN (Fig. 5 of the paper)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.metrics import structural_similarity

from benchmarks.paper_reproduction.bench import ReproductionBench
from benchmarks.paper_reproduction.drawing import canvas, png, strip
from benchmarks.paper_reproduction.measures import luminance
from benchmarks.paper_reproduction.section import FigureImage, ReproductionGoal, Section, Table
from benchmarks.photographs import TEST_PHOTOGRAPHS, middle, resize_image
from dni_deploy.imaging.metrics.psnr import psnr

FAMILY_NAME = "sr"
SWEEP_ALPHAS = tuple(round(0.1 * step, 1) for step in range(11))
"""Coefficient of the GAN member."""
IMAGE_SIDE_PX = 256
DETAIL_SIGMA = 1.0
"""Detail is what a Gaussian of this sigma in pixels removes: the band lost by downscaling by 4, and some above it."""

Pixels = NDArray[np.uint8]


def detail(pixels: Pixels) -> NDArray[np.float64]:
    """Returns the luminance minus its Gaussian blur, (H, W)."""
    gray = luminance(pixels)
    return np.asarray(gray - ndimage.gaussian_filter(gray, DETAIL_SIGMA))


def score_image(pixels: Pixels, original: Pixels) -> tuple[float, float, float, float]:
    """Returns PSNR in dB, SSIM, RMS of the detail relative to the original, and the correlation of the detail with it."""
    fine_detail, true = detail(pixels), detail(original)
    similarity = float(
        structural_similarity(pixels, original, channel_axis=2, gaussian_weights=True, use_sample_covariance=False)
    )
    return (
        psnr(pixels, original),
        similarity,
        float(fine_detail.std() / true.std()),
        float(np.corrcoef(fine_detail.ravel(), true.ravel())[0, 1]),
    )


def figure(bench: ReproductionBench) -> Section:
    """Measures blended networks and blended images along alpha on the held-out photographs."""
    originals = {name: middle(name, IMAGE_SIDE_PX) for name in TEST_PHOTOGRAPHS}
    outputs = {
        alpha: {
            name: bench.between(FAMILY_NAME, "mse", "gan", alpha)(resize_image(whole, IMAGE_SIDE_PX // 4, IMAGE_SIDE_PX // 4))
            for name, whole in originals.items()
        }
        for alpha in SWEEP_ALPHAS
    }
    modes: dict[str, list[NDArray[np.float64]]] = {"network": [], "pixels": []}
    for alpha in SWEEP_ALPHAS:
        mixed = {
            name: np.asarray(
                np.rint((1 - alpha) * outputs[0.0][name].astype(np.float64) + alpha * outputs[1.0][name]), np.uint8
            )
            for name in TEST_PHOTOGRAPHS
        }
        for mode, frames in (("network", outputs[alpha]), ("pixels", mixed)):
            modes[mode].append(np.mean([score_image(frames[name], originals[name]) for name in TEST_PHOTOGRAPHS], axis=0))
    table = {mode: np.array(values) for mode, values in modes.items()}
    network, pixels = table["network"], table["pixels"]
    bicubic = np.mean(
        [
            score_image(resize_image(resize_image(o, IMAGE_SIDE_PX // 4, IMAGE_SIDE_PX // 4), IMAGE_SIDE_PX, IMAGE_SIDE_PX), o)
            for o in originals.values()
        ],
        axis=0,
    )
    inner = slice(1, -1)
    matched = [_compare_at_equal_detail(network, pixels, column) for column in range(4)]
    rows: list[tuple[str | float, ...]] = [
        (f"{alpha:.1f}", mode, *(float(value) for value in table[mode][index]))
        for index, alpha in enumerate(SWEEP_ALPHAS)
        for mode in (("network",) if index in (0, len(SWEEP_ALPHAS) - 1) else ("network", "pixels"))
    ]
    return Section(
        title="Super-resolution: blended networks, not blended pictures",
        claim="from MSE to GAN the effect is continuous, and interpolating the two outputs cannot separate artefacts from detail while "
        "DNI can (section 4.1, Fig. 5).",
        how="RRDBNet x4 (2 blocks of width 32), antialiased bicubic, middle 256x256 of three held-out photographs. GAN: a discriminator "
        "and, in place of VGG features, local statistics of texture (benchmarks/paper_reproduction/train/sr.py). Detail is what "
        "a Gaussian of 1 pixel takes away; its energy is in parts of the original's, and its correlation with the original's says "
        "how much of it is true.",
        goals=(
            ReproductionGoal("PSNR, MSE member minus bicubic", float(network[0, 0] - bicubic[0]), "above", 0.0, "dB"),
            ReproductionGoal("PSNR, MSE member minus GAN member", float(network[0, 0] - network[-1, 0]), "above", 0.0, "dB"),
            ReproductionGoal("energy of the detail, GAN member over MSE member", float(network[-1, 2] / network[0, 2]), "at least", 1.1),
            ReproductionGoal(
                "energy of the detail along alpha, largest step back in parts of the whole way",
                float(max(0.0, -np.diff(network[:, 2]).min()) / max(abs(network[-1, 2] - network[0, 2]), 1e-9)),
                "at most",
                0.05,
            ),
            ReproductionGoal(
                "PSNR, networks minus pictures at the same alpha, mean of 0.1 to 0.9",
                float((network - pixels)[inner, 0].mean()),
                "above",
                0.0,
                "dB",
            ),
            ReproductionGoal("PSNR, networks minus pictures of the same energy of detail", matched[0], "above", 0.0, "dB"),
            ReproductionGoal("correlation of the detail, networks minus pictures of the same energy of detail", matched[3], "above", 0.0),
        ),
        pictures=(
            FigureImage("super-resolution", _curves(table), "PSNR, SSIM, energy and correlation of the detail along alpha."),
            FigureImage("super-resolution-crops", _crops(outputs), "Crops; upper rows: blended networks, lower: blended pictures."),
        ),
        tables=(Table(("alpha", "what is blended", "PSNR, dB", "SSIM", "energy of the detail", "its correlation"), tuple(rows), 3),),
        note="At one alpha the two ways have different amounts of detail (blended pictures more of it, where the GAN's is made up), so "
        "they are compared at equal energy, too: PSNR and correlation read off the curves over energy, mean over the way. A hundredth "
        "of a dB is a tie there: another training of the GAN member turned its sign (benchmarks/paper_reproduction/train/sr.py). "
        "That member is small and was trained for minutes; part of its detail is a grid that its discriminator did not drive out.",
    )  # fmt: skip


def _compare_at_equal_detail(network: NDArray[np.float64], pixels: NDArray[np.float64], column: int) -> float:
    """Returns the mean difference of a score at equal detail energy, which rises with alpha in both modes."""
    energies = np.linspace(network[0, 2], network[-1, 2], 101)[1:-1]
    first, second = (np.interp(energies, mode[:, 2], mode[:, column]) for mode in (network, pixels))
    return float(np.mean(first - second))


def _curves(table: dict[str, NDArray[np.float64]]) -> bytes:
    figure, axes = canvas(1, 4, 2.6)
    for index, (panel, title) in enumerate(
        zip(axes[0], ("PSNR, dB", "SSIM", "energy of the detail", "its correlation"), strict=True)
    ):
        for mode, found in table.items():
            panel.plot(
                SWEEP_ALPHAS, found[:, index], "o-" if mode == "network" else "x--", markersize=3, label=f"blended {mode}"
            )
        panel.set(xlabel="share of GAN", title=title)
    axes[0, 0].legend(fontsize=7)
    return png(figure)


def _crops(outputs: dict[float, dict[str, Pixels]]) -> bytes:
    crops, titles = [], []
    alphas = (0.0, 0.3, 0.5, 0.7, 1.0)
    for name, top, left in (("astronaut", 20, 60), ("chelsea", 60, 90)):
        window = slice(top, top + 96), slice(left, left + 96)
        for mode in ("networks", "pictures"):
            for alpha in alphas:
                ends = outputs[0.0][name].astype(np.float64), outputs[1.0][name].astype(np.float64)
                mixed = np.asarray(np.rint((1 - alpha) * ends[0] + alpha * ends[1]), np.uint8)
                crops.append((outputs[alpha][name] if mode == "networks" else mixed)[window])
                titles.append(f"{mode}, {alpha:.1f}")
            crops.append(middle(name, IMAGE_SIDE_PX)[window])
            titles.append("original")
    return strip(crops, titles, columns=len(alphas) + 1)
