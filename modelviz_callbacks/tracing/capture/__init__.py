"""The hot path: watches a forward pass and writes down what ran."""
