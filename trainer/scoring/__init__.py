"""What a reconstruction is worth, whoever made it."""
