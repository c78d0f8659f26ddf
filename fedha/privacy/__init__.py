"""What protects a client's data: noise with an account of it, and sums that hide single clients."""
