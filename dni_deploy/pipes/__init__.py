"""Pipes: raw video on stdin and stdout, for graphs that other programs make.

stream (bytes, whole reads) -> y4m or rgb24 (frames) -> colour (RGB) -> loop (read, effect, write overlap)
"""
