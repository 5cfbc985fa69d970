"""The Hub as both sides meet it."""
