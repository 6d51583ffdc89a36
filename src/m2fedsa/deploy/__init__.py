"""From one machine to many: folders for every party, programs that start from them, and commands that look after them."""
