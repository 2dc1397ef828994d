"""T2Diff's tables: sequential user towers under one protocol, T2Diff's forms among them, and its parts."""
