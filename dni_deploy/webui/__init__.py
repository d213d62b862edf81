"""The live page and its server: frames and a slider in browsers on this machine."""
