"""How a model graph is told to people: boxes, labels, the text tree. Standard library only."""
