"""Embeddings of pictures: from files, through an image model, to a pair of files."""
