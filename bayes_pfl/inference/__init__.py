"""Images -> predictions: the detector, anomaly maps, tiles, heat maps, and the bundle that a model is stored in."""
