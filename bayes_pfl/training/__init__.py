"""Optimisation of a trainable method in plain torch: one step a batch, on one worker or several."""
