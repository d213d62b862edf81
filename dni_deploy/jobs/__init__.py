"""Units of a long job: which part of them a process does, and what became of each."""
