"""The drawn world: 40 categories of objects that a program draws, as photos and as sketches.

- `instances`: the objects by category and number, and what can be varied. `parts`: what objects are made of.
- `animals`, `carried`, `household`, `outdoors`, `plants`: the categories.
- `render`: an object as a photo, and as sketches.
"""
