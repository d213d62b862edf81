"""The trainings, one script per family: python -m benchmarks.paper.train.FAMILY -o FOLDER."""
