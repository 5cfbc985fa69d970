"""The starter model: its world, the recipe that makes it from nothing, and its weights."""
