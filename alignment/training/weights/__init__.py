"""Weights before a run and after: where they begin, what is left behind, merged, compared."""
