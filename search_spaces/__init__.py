"""What can vary and what it costs. Needs no PyTorch."""
