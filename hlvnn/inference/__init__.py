"""What is computed of a model: objectives, predictions, adaptation, calibration, metrics."""
