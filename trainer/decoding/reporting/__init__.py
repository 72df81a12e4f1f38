"""What a decoding says: tables, figures, few-shot curves."""
