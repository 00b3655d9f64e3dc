"""What `camcore verify` checks."""
