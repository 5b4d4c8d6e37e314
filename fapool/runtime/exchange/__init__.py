"""How ranks pass tensors: messages between two ranks, sums and gathers in a group."""
