"""Proofs that the groups and the rewrite are right, and what else is measured of a slim model."""
