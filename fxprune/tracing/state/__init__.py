"""What forward changes beside its result: Python objects, buffers, random numbers."""
