"""What a training run consists of: arguments, batches, losses, objectives and their state."""
