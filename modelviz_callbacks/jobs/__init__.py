"""The child process that does the slow part of a run, and its handle in the training process."""
