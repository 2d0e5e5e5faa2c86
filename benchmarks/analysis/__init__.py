"""What records say: results side by side, their means, findings and figures."""
