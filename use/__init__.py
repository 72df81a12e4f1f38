"""Using a pretrained encoder from other people's tools: MNE, scikit-learn, MOABB, braindecode."""
