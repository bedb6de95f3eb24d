"""Thin adapters to training frameworks; each module needs an extra of its own, which its error names."""
