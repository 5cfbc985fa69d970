"""What of the Hub models and jobs need: cards, what files may come, weights, jobs."""
