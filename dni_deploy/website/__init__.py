"""A static site whose page runs a bundle's network in the visitor's browser (`web`)."""
