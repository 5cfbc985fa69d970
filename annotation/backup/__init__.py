"""Votes and pairs in a dataset repository, and home again."""
