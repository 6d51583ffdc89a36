"""What people see of a run: progress on the terminal, the run directory, the report."""
