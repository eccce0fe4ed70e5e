"""What each event does in each phase."""
