"""What ``camcore evaluate`` measures and draws of a finished training."""
