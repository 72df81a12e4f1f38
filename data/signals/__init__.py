"""A recording becomes windows."""
