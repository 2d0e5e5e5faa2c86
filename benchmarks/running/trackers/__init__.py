"""Where a training can be watched from elsewhere: TensorBoard, Weights & Biases, MLflow, trackio."""
