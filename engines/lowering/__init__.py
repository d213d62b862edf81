"""Rewrites of a bundle's graph that more than one backend needs; what one backend alone needs lies in its own package."""
