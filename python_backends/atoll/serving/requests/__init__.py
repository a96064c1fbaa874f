"""What requests contain and how they are answered; independent of Triton's loop."""
