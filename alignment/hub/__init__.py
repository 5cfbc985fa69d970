"""The Hugging Face Hub as Votetune meets it: one call with retries, what files may come, cards."""
