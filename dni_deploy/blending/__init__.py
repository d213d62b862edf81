"""From coefficients to weights: the blend, weight groups, presets, BatchNorm statistics, variance guard."""
