"""FIT: early interaction through meta queries, late interaction through a small MLP on head similarities."""
