"""The workshop: what exists for speed or for rare inputs, read when needed."""
