"""Image classification: from handwritten digits that need no download to ImageNet."""
