"""Data sets: readers of their true formats, and splits that keep test points apart."""
