"""A look at a shard folder: numbers and pictures."""
