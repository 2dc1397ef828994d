"""Towers of a bundle as ONNX (Open Neural Network Exchange) graphs, for NumPy and ONNX Runtime alone."""
