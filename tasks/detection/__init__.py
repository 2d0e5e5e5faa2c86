"""Detection: boxes, masks and keypoints of objects in photographs, by R-CNNs whose backbone slims."""
