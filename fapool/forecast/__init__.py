"""What a spec will need and take, from its numbers alone: pure, no torch, no measurement."""
