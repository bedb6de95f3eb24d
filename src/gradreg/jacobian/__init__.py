"""The maths of Jacobian penalties: targets, sites, projections, engines, magnitudes, and the dense oracle.

Nothing here knows of training or of a concrete model.
"""
