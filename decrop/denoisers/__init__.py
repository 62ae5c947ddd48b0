"""Denoisers of any origin, as modules of images in [0,1] pixels."""
