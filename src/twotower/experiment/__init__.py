"""One experiment from run description to bundle: split, train, evaluate, index, write."""
