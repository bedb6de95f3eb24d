"""Thin adapters to training frameworks; all but Fabric's need an extra, which their errors name."""
