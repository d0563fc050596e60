"""Records, formats, splits, feedback: what goes into training."""
