"""Tensors -> loss, latents, reconstruction. Imports nothing of this project's other packages."""
