"""preview: a page with the picture live and a slider, for browsers on this machine."""
