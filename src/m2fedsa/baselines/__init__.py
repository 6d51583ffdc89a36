"""What the method is compared with: the same parties under other settings, and the same samples held by others."""
