"""Models that no graph can hold: watched while they run, pruned in their own class, and proved operator by operator."""
