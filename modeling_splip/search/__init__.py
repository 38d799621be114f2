"""Galleries of photos, searched by drawing and words."""
