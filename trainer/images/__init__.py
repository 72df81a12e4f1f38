"""From EEG to the picture that was seen: embeddings, trials, retrieval."""
