"""Reproduces the paper's claims: families trained here, figures rendered by exported engines, docs/paper.md."""
