"""What becomes of BatchNorm when one network serves several widths."""
