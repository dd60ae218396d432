"""Benchmarks of meshlb beside its peers, all in one run, in interleaved rounds."""
