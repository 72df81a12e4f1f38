"""How well pictures are retrieved: queries, a run's retriever, its rivals, scores, the report."""
