"""Files at addresses: object stores beside the local disk, by fsspec."""
