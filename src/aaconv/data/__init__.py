"""Images as tensors: the embedded digit pairs and folders of the user's own."""
