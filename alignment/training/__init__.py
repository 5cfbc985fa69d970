"""What the training child is made of: what a spec means to it, and a room for each part."""
