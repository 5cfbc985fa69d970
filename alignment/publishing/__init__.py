"""A run's weights on the Hub, and the way back: what they were made from, and made again."""
