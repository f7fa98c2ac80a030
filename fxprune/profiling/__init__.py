"""Latency of slim models before they are made: measured on random slim models, part by part, and predicted in closed form."""
