"""What `bayes-pfl calibrate` does: score the images, make the calibration, write the model, draw it."""
