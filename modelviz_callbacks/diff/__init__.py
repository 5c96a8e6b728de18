"""The differences between two model graphs. Standard library only."""
