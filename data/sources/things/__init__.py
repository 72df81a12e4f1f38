"""People who look at the pictures of THINGS: both data sets, raw and published pre-processed."""
