"""What each group keeps under budgets: the most worth within them, and how much there could be at most."""
