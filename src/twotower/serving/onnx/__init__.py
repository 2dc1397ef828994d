"""The towers of a bundle as ONNX graphs: written with PyTorch, read with NumPy and ONNX Runtime alone."""
