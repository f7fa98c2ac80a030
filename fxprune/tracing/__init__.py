"""A model's forward as one FX graph, honest in both modes, whose run on the meta device labels every axis."""
