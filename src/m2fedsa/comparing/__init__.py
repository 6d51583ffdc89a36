"""Methods and settings side by side: many runs of the same seeds, and what they say together."""
