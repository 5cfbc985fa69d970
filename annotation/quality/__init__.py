"""How far votes can be trusted, and whose look strange. Pure, but for its report's desk."""
