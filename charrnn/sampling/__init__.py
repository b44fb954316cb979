"""A trained model to text."""
