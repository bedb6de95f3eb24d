"""Gradient regularization for PyTorch."""
