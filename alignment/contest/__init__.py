"""Is it better? Blind comparisons, their figures, and who becomes the policy."""
