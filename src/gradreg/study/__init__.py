"""Studies: runs as data, their execution and storage, honest selection, statistics and reports."""
