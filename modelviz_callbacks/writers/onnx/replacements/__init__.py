"""Functions that the exporter's table lacks, in terms of functions that it has."""
