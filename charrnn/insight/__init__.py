"""A trained model, or a run, to understanding."""
