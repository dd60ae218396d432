def histogram_row(buckets: list[int], microseconds: int) -> bytes:
    """What is read of two workers that have counted `buckets` each, and one more sample."""
