"""Many runs over recipes, hyperparameters, targets and seeds, and what is chosen among them."""
