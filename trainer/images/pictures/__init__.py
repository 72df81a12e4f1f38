"""From retrieval to pictures: embeddings that EEG gives, generators that draw them, and judges."""
