"""The training loop, which knows no objective."""
