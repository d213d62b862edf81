"""Alpha set from outside while frames run: by OSC, MIDI, HTTP or lines of text."""
