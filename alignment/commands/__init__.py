"""What the commands of app.py do that no service does: walk, watch, sample to a file, tell."""
