"""What the data doctor checks: votes, examples, and examples in tokens."""
