"""An exported denoiser: a folder that carries what it takes to use and to check it."""

from decrop.bundle.export import export_bundle
from decrop.bundle.load import Bundle, load_bundle, read_certificates
from decrop.bundle.verify import limited_data_of, verify_bundle

__all__ = [
    "Bundle",
    "export_bundle",
    "limited_data_of",
    "load_bundle",
    "read_certificates",
    "verify_bundle",
]
