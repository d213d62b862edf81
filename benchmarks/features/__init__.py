"""Measurements of single features of this project."""
