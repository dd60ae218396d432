"""What the kernel is told, and asked."""
