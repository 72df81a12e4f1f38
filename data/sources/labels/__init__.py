"""Labels of whole recordings, from names or tables."""
