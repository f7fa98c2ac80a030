"""The report of a pruned model as one HTML file: a plain document of figures first, then a page that shows it."""
