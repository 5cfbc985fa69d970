"""Who is better, on a page: the leaderboard, the gate with its buttons, rounds in a row."""
