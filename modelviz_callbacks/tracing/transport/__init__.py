"""A recording as bytes, for another process."""
