"""Prepared data sets, their views by protocol, and the descriptions of classes."""
