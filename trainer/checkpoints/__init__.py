"""A run folder and its checkpoints: whole, found again, resumed."""
