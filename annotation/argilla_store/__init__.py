"""One Argilla dataset over one journal."""
