"""Commands that train, adapt, convert and score. Imports `data` and `model`."""
