"""TRL's trainers as each method of a run has them: what ours change of them, and why."""
