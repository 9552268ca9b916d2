"""Whether this machine has what a run needs, and how to get what it lacks."""
