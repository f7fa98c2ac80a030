"""What deployment takes: a model with what does nothing in evaluation taken out, and files for other runtimes."""
