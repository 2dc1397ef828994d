"""Data: raw tables -> prepared data set -> batches; splits; public data sets."""
