"""The line away and back, replies cancelled by the shell, last words, warnings: in every phase."""
