"""Small networks of each architecture that spandrel 0.4.2 knows, with random weights.

Hyperparameters are as small as the architecture allows; those that spandrel cannot read from a state dict have its defaults.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

SWIN = {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 2], "window_size": 8, "mlp_ratio": 2.0, "upscale": 2}
NETWORKS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ATD": ("ATD", {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 2), "category_size": 64, "num_tokens": 16, "upscale": 2,
                    "upsampler": "pixelshuffle"}),
    "AuraSR": ("AuraSR", {"dim": 8, "image_size": None, "input_image_size": None, "up_dim_mults": (1, 2, 4, 8, 16),
                          "down_dim_mults": (4, 8, 16), "full_attn": (False, False, False, True, True), "mid_attn_depth": 1,
                          "attn_depths": (2, 2, 2, 1, 1), "num_conv_kernels": 2, "flash_attn": True,
                          "style_network": {"dim_in": 16, "dim_out": 64, "depth": 2}}),
    "CRAFT": ("CRAFT", {"embed_dim": 64, "depths": [1, 1], "num_heads": [2, 2], "upscale": 2}),
    "Compact": ("Compact", {"num_feat": 16, "num_conv": 4, "upscale": 2}),
    "DAT": ("DAT", {"embed_dim": 64, "split_size": [8, 8], "depth": [2, 2], "num_heads": [2, 2], "expansion_factor": 2.0,
                    "upscale": 2}),
    "DCTLSA": ("DCTLSA", {"in_nc": 3, "nf": 55, "num_modules": 6, "out_nc": 3, "upscale": 2}),
    "DITN": ("DITN", {"dim": 16, "ITL_blocks": 2, "SAL_blocks": 2, "UFONE_blocks": 1, "upscale": 2}),
    "DRCT": ("DRCT", {"embed_dim": 24, "depths": (6, 6), "num_heads": (2, 2), "window_size": 8, "upsampler": "pixelshuffle",
                      "gc": 8, "upscale": 2}),
    "DRUNet": ("DRUNet", {"in_nc": 4, "out_nc": 3, "nc": [8, 16, 24, 32], "nb": 2}),
    "DnCNN": ("DnCNN", {"in_nc": 3, "out_nc": 3, "nc": 16, "nb": 5}),
    "DnCNN (FDnCNN)": ("DnCNN", {"in_nc": 4, "out_nc": 3, "nc": 16, "nb": 9, "mode": "FDnCNN", "act_mode": "R"}),
    "ESRGAN": ("ESRGAN", {"num_filters": 16, "num_blocks": 2, "scale": 4}),
    "ESRGAN (plus)": ("ESRGAN", {"num_filters": 16, "num_blocks": 2, "scale": 2, "plus": True}),
    "FBCNN": ("FBCNN", {"nc": [8, 16, 24, 512], "nb": 2}),
    "FDAT": ("FDAT", {"embed_dim": 24, "num_groups": 1, "depth_per_group": 2, "num_heads": 2, "mid_dim": 16, "scale": 2,
                      "upsampler_type": "pixelshuffle"}),
    "FFTformer": ("FFTformer", {"dim": 16, "num_blocks": [1, 1, 1], "num_refinement_blocks": 1}),
    "GFPGAN": ("GFPGAN", {}),
    "GRL": ("GRL", {"embed_dim": 16, "upsampler": "pixelshuffle", "depths": [2, 2], "num_heads_window": [2, 2],
                    "num_heads_stripe": [2, 2], "mlp_ratio": 2, "upscale": 2}),
    "HAT": ("HAT", {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 2), "window_size": 8, "mlp_ratio": 2.0, "num_feat": 16,
                    "squeeze_factor": 6, "upscale": 2}),
    "HVICIDNet": ("HVICIDNet", {"channels": [12, 12, 24, 48], "heads": [1, 2, 4, 8]}),
    "IPT": ("IPT", {"patch_size": 24, "n_feats": 12, "num_heads": 12, "num_layers": 2, "scale": [2]}),
    "KBNet": ("KBNet.KBNet_s", {"width": 16, "middle_blk_num": 1, "enc_blk_nums": [1, 1, 1, 1], "dec_blk_nums": [1, 1, 1, 1]}),
    "LaMa": ("LaMa", {"in_nc": 4, "out_nc": 3}),
    "MMRealSR": ("MMRealSR", {"num_in_ch": 3, "num_out_ch": 3, "num_block": 1, "num_feat": 16, "num_grow_ch": 8,
                              "num_feats": [8, 16, 24, 32], "num_blocks": [1, 1, 1, 1]}),
    "MixDehazeNet": ("MixDehazeNet", {"embed_dims": [12, 24, 48, 24, 12], "depths": [1, 1, 1, 1, 1]}),
    "MoESR": ("MoESR", {"scale": 2, "dim": 16, "n_blocks": 2, "n_block": 1, "upsample_dim": 16}),
    "MoSR": ("MoSR", {"upscale": 2, "n_block": 2, "dim": 16}),
    "NAFNet": ("NAFNet", {"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}),
    "OmniSR": ("OmniSR", {"num_feat": 16, "block_num": 1, "res_num": 1, "up_scale": 2}),
    "PLKSR": ("PLKSR", {"dim": 16, "n_blocks": 2, "upscaling_factor": 2}),
    "PLKSR (RealPLKSR)": ("PLKSR.RealPLKSR", {"dim": 16, "n_blocks": 2, "upscaling_factor": 2, "dysample": True}),
    "RCAN": ("RCAN", {"scale": 2, "n_resgroups": 2, "n_resblocks": 2, "n_feats": 16, "reduction": 4}),
    "RGT": ("RGT", {"embed_dim": 64, "depth": [2, 2], "num_heads": [2, 2], "mlp_ratio": 2.0, "upscale": 2}),
    "RealCUGAN": ("RealCUGAN.UpCunet2x", {}),
    "RealCUGAN (3x)": ("RealCUGAN.UpCunet3x", {}),
    "RealCUGAN (4x)": ("RealCUGAN.UpCunet4x", {}),
    "RealCUGAN (2x fast)": ("RealCUGAN.UpCunet2x_fast", {}),
    "RestoreFormer": ("RestoreFormer", {"n_embed": 32, "embed_dim": 32, "ch": 32, "ch_mult": (1, 1, 1, 1, 1, 2),
                                        "num_res_blocks": 1, "attn_resolutions": (16,), "z_channels": 32, "resolution": 512,
                                        "head_size": 8, "enable_mid": True}),
    "RetinexFormer": ("RetinexFormer", {"n_feat": 16, "stage": 1}),
    "SAFMN": ("SAFMN", {"dim": 16, "n_blocks": 2, "upscaling_factor": 2}),
    "SAFMNBCIE": ("SAFMNBCIE", {"dim": 16, "n_blocks": 2, "num_layers": 2, "upscaling_factor": 2}),
    "SCUNet": ("SCUNet", {"config": [1, 1, 1, 1, 1, 1, 1], "dim": 64}),
    "SPAN": ("SPAN", {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 16, "upscale": 2}),
    "SeemoRe": ("SeemoRe", {"scale": 2, "num_layers": 2, "embedding_dim": 16, "num_experts": 3}),
    "SwiftSRGAN": ("SwiftSRGAN", {"num_channels": 16, "num_blocks": 2, "upscale_factor": 2}),
    "Swin2SR": ("Swin2SR", {**SWIN, "upsampler": "pixelshuffle"}),
    "SwinIR": ("SwinIR", {**SWIN, "upsampler": "pixelshuffle"}),
    "SwinIR (denoising)": ("SwinIR", {**SWIN, "upsampler": "", "upscale": 1}),
    "SwinIR (x4, nearest+conv)": ("SwinIR", {**SWIN, "upsampler": "nearest+conv", "upscale": 4}),
    "Uformer": ("Uformer", {"embed_dim": 8, "depths": [1] * 9, "num_heads": [1, 1, 2, 2, 2, 2, 2, 1, 1]}),
}  # fmt: skip
"""Row of the table -> module and class under spandrel.architectures, and keyword arguments."""


def build_members(name: str) -> list[dict[str, torch.Tensor]]:
    """Builds two state dicts of a network of NETWORKS, with seeded weights; spandrel has to be importable.

    Every trained tensor is moved by a fifth of its size, so that zero biases and gates count, too. Buffers, which spandrel reads
    hyperparameters from, stay.
    """
    path, options = NETWORKS[name]
    module, _, class_name = path.partition(".")
    torch.manual_seed(0)
    network_class = getattr(importlib.import_module(f"spandrel.architectures.{module}"), class_name or module)
    network: nn.Module = network_class(**options)
    trained = {key for key, value in network.named_parameters() if value.requires_grad and value.numel() > 1}
    members = []
    for seed in (1, 2):
        generator = torch.Generator().manual_seed(seed)
        members.append({key: value.detach().clone() for key, value in network.state_dict().items()})
        for key, value in members[-1].items():
            if key not in trained:
                continue
            value += 0.2 * value.abs().mean().clamp_min(1e-3) * torch.randn(value.shape, generator=generator)
    return members
