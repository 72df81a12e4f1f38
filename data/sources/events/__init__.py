"""The moments of a recording that are its events."""
