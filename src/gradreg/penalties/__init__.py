"""Penalties: the contract and its sum, Jacobian penalties and their presets, penalties on the outputs."""
