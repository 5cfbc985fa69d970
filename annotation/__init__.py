"""From prompt to preference dataset: sampling pairs, taking blind votes, storing, exporting."""
