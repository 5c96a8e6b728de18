"""What a later step of the training takes and shows: times, memory, statistics of its tensors."""
