"""A run from what a person asks to its end: what it pins and costs, its folder, what it tells."""
