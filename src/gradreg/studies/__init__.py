"""Studies by name: ``gradreg run NAME``; each module has ``STUDY``, or ``study(scale)``."""
