"""Stage 1: boundary and interpolated samples."""
