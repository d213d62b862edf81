"""Style: TransformerNet to two styles in two stroke sizes, a content end, and the two partial members of Fig. 9.

    python -m benchmarks.paper_reproduction.train.style -o benchmarks/paper_reproduction/weights

`mosaic_small` is the ancestor. `mosaic_large`, `fire_small`, `fire_large` and `content` are fine-tuned from it as a whole
(folder style); `fire_norm` trains its InstanceNorm alone, `fire_conv` its convolutions alone (folder style_parts, where the
ends are style's mosaic_small and fire_small).

There is no VGG here: the style is a sliced Wasserstein distance of patches and colors (texture.py), the content a
standardized low-pass luminance, for `content` the image itself as well (its drawing comes back, its colors do not: the
ancestor has discarded them, and five hundred steps do not recover them). The style images are styles.py's. Members
whose file already exists are kept. Seeds are fixed; about twenty minutes on one core with bfloat16 units.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.paper_reproduction.styles import STYLE_IMAGES
from benchmarks.paper_reproduction.train.patches import draw_patches, training_images
from benchmarks.paper_reproduction.train.texture import StyleDistance, structure
from benchmarks.paper_reproduction.train.weights import load, write
from benchmarks.photographs import TEXTURE_PHOTOGRAPHS, TRAIN_PHOTOGRAPHS
from exporters.architectures.transformer_net import TransformerNet

LAYER_WIDTHS, BLOCK_COUNT = (16, 32, 64), 4
BATCH_SIZE, CROP_SIDE_PX = 4, 112
OUTPUT_GAIN = 30.0
"""The last convolution's weights and rate against the default: its values are 0..255, all others' about 1."""


def make_network() -> TransformerNet:
    torch.manual_seed(0)
    net = TransformerNet(widths=LAYER_WIDTHS, blocks=BLOCK_COUNT)
    with torch.no_grad():
        net.deconv3.conv2d.weight *= OUTPUT_GAIN
        nn.init.constant_(net.get_parameter("deconv3.conv2d.bias"), 127.0)
    return net


def train(
    net: TransformerNet, style: str, steps: int, rate: float, *, seed: int, style_weight: float = 1.0,
    pixel_weight: float = 0.0, only: str = "",
) -> None:  # fmt: skip
    """Adam with a cosine rate. Changes `net`.

    only        "norm" or "conv": the others keep the ancestor's values.
    """
    images = training_images(
        tuple(name for name in TRAIN_PHOTOGRAPHS if name not in (*TEXTURE_PHOTOGRAPHS, "page", "text")), (0.6, 0.4)
    )
    images = [image for image in images if min(image.shape[:2]) >= CROP_SIDE_PX]
    texture_distance = StyleDistance(torch.from_numpy(STYLE_IMAGES[style].transpose(2, 0, 1).copy()).float()[None] / 255, seed)
    rng = np.random.default_rng(seed)
    net.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    norms = {f"{name}.{key}" for name, module in net.named_modules() if isinstance(module, nn.InstanceNorm2d)
             for key in ("weight", "bias")}  # fmt: skip
    trained = {name: p for name, p in net.named_parameters() if not only or (name in norms) == (only == "norm")}
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name in trained)
    last = [parameter for name, parameter in trained.items() if name.startswith("deconv3")]
    others = [parameter for name, parameter in trained.items() if not name.startswith("deconv3")]
    groups = [{"params": others, "gain": 1.0}] + ([{"params": last, "gain": OUTPUT_GAIN}] if last else [])
    optimizer = torch.optim.Adam(groups, rate)
    started, shown = time.monotonic(), np.zeros(3)
    for step in range(1, steps + 1):
        pace = min(1.0, step / (0.05 * steps)) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate * pace * group["gain"]
        inputs = draw_patches(images, rng, BATCH_SIZE, CROP_SIDE_PX).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = net(inputs * 255)
        outputs = outputs.float() / 255
        texture = texture_distance(outputs)
        content = torch.stack(
            [(a - b).square().mean() for a, b in zip(structure(outputs), structure(inputs), strict=True)]
        ).sum()
        pixels = (outputs - inputs).abs().mean()
        beyond = functional.relu(outputs - 1).mean() + functional.relu(-outputs).mean()
        loss: Tensor = style_weight * texture + 0.06 * content + pixel_weight * pixels + beyond
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(list(trained.values()), 1.0)
        optimizer.step()
        shown += (np.array([texture.item(), content.item(), pixels.item()]) - shown) / min(step, 50)
        if step % 50 == 0 or step == steps:
            rest = (time.monotonic() - started) / step * (steps - step)
            print(f"  {style} {only} step {step}/{steps}  texture {shown[0]:.3f}  content {shown[1]:.3f}  "
                  f"pixels {shown[2]:.3f}  {rest:.0f} s left", flush=True)  # fmt: skip
    net.to("cpu").eval().requires_grad_(True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the folders style and style_parts")
    parser.add_argument("--steps", type=float, default=1.0, help="factor on the number of steps")
    arguments = parser.parse_args()

    started = time.monotonic()
    steps, fewer = (max(1, round(count * arguments.steps)) for count in (1200, 500))
    ancestor = arguments.output / "style/mosaic_small.safetensors"
    if not ancestor.exists():
        net = make_network()
        train(net, "mosaic_small", steps, 2e-3, seed=0)
        write(net, ancestor, {"style": "mosaic_small"})
    for path, style, options in (
        ("style/fire_small", "fire_small", {}),
        ("style/fire_large", "fire_large", {}),
        ("style/mosaic_large", "mosaic_large", {}),
        ("style/content", "mosaic_small", {"style_weight": 0.02, "pixel_weight": 2.0}),
        ("style_parts/fire_norm", "fire_small", {"only": "norm"}),
        ("style_parts/fire_conv", "fire_small", {"only": "conv"}),
    ):
        file = arguments.output / f"{path}.safetensors"
        if not file.exists():
            net = make_network()
            net.load_state_dict(load(ancestor))
            train(net, style, fewer, 1.5e-3, seed=1, **options)
            write(net, file, {"style": style, **{key: str(value) for key, value in options.items()}})
    print(f"{(time.monotonic() - started) / 60:.1f} minutes, torch {torch.__version__}")


if __name__ == "__main__":
    main()
