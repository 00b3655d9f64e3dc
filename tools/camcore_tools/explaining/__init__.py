"""What `camcore explain` is made of, and other commands share."""
