"""Reports, pictures and pages of a rehearsal."""
