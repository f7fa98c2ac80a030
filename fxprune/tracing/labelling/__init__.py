"""Runs on the meta device that give every axis its label."""
