"""Agent files: one file, one frozen spec."""
