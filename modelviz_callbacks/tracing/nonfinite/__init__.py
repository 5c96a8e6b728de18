"""Which op made the first value that is not finite: the step is replayed and searched."""
