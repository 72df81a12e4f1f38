"""From trials of EEG to the embedding of the picture that was seen."""
