"""From votes to a preference dataset, the same bytes every time."""
