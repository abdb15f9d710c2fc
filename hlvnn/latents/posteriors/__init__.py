"""The family of posteriors q(z), one file each."""
