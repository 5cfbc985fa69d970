"""How a pair goes through a model, and its losses: a prompt once, the head where it is read."""
