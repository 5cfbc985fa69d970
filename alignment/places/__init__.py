"""Where a run may go: a child process here, several by accelerate, or a job on the Hub."""
