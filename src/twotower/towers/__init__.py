"""Features -> vectors. A tower is a module; each file is one kind. Add one: write its file, use it in a model."""
