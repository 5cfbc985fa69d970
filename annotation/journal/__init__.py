"""The journal: pairs, votes and what is still to deliver, in one SQLite file."""
