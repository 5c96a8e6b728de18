"""What is computed about a model graph, for every writer. Standard library only."""
