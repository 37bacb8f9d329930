"""The built-in miniature: a pretrained base, the world of its problems, how both were made."""
