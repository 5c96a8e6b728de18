"""Tests of the model graph."""
