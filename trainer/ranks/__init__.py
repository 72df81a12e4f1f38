"""Ranks: started, agreeing, stopped together."""
