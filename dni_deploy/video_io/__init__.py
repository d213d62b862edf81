"""Film: films through an effect, frame by frame: read, change, write, and take up again what was stopped."""
