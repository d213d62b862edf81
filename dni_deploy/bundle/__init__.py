"""The folder on disk: manifest, graph, members; read, written, added to."""
