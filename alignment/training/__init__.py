"""What the training child is made of: tokens, trainers, what it tells its folder."""
