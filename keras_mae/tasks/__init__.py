"""What each kind of run needs beyond the loop."""
