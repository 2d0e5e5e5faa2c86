"""The proof of a layout: the sliced network is run, and compared with the full one, masked."""
