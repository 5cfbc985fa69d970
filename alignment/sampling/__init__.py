"""How answers are drawn: weights in memory, a process for them, tokens on their way."""
