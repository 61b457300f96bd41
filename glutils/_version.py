"""The version of the package, told once: its metadata, its records and its archive read it here."""

__version__ = "0.1.0"
