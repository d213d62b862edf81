"""Coefficients, and where they come from over time: keyframes, curves, a plane, a log."""
