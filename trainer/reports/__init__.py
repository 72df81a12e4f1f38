"""Scores as tables, figures and files."""
