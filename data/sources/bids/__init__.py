"""What a BIDS dataset says beside its recordings."""
