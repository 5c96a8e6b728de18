"""From a recording to the model graph, the program, the backward graph and the figures."""
