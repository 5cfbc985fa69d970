"""What voters' browsers ask, and who they are."""
