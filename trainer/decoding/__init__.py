"""Classifying windows by the labels that shards carry."""
