"""What a user gives: models by name, checkpoints, example inputs, batches of data."""
