"""One file per command: the library function of the same name."""
