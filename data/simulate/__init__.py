"""EEG and MEG from a physical model, with the best possible prediction."""
