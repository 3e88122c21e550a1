"""A tree to a mount point.  Knows directories and plans; knows no store and no image."""
