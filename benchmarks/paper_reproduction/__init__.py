"""The paper's claims, shown again: families trained here, figures through exported engines, docs/paper.md."""
