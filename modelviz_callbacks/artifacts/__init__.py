"""What is made of a recording: files on disk and what is logged, each made once."""
