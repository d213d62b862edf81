"""What blends of a family lose beside their members, measured on pictures and corrected."""
