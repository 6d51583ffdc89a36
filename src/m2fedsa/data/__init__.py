"""Where samples come from. Knows nothing of models or parties."""
