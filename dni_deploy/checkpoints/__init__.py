"""Reads a .pth or .safetensors file without running it, and makes a family of several."""
