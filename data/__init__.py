"""Recordings -> shards -> batches. Imports nothing of this project's other packages."""
