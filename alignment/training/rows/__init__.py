"""What a trainer is fed: an export in tokens, what is left out of it, kept references."""
