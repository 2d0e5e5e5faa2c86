"""What makes a layer slimmable: widths, the layout of channels, and the views that are swapped in for a width."""
