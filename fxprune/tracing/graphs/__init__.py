"""What is made of a recording: a GraphModule, of both modes or of one, with its names and assertions."""
