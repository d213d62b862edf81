"""Training scripts, one per family: python -m benchmarks.paper_reproduction.train.FAMILY -o FOLDER."""
