"""What each group keeps under budgets: the most saliency within them, and how much more there could be at most."""
