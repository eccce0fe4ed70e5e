"""One call: the shell around the conversation machine."""
