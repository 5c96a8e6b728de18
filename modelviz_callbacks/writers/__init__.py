"""One file or folder a format: a graph in, bytes out."""
