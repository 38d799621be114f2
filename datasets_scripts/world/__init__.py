"""The drawn world: 40 categories of objects that a program draws, as photos and as sketches."""
