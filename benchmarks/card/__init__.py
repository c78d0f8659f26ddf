"""The sections of gpu.py: what is measured on one card, and tried on a processor with `--dry-run`."""
