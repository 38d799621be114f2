"""What every room uses.

files         files and folders written whole or not at all; the user's cache folder
text          names and messages: spelling, the nearest name, quoting, Markdown tables
hub           telling a Hub id from a path
images        the one image reader, for those who may import nothing else of the package
pixels        images as bytes on their way to a device
processes     what the processes of one run must be told, and how they part
lazy          public names of a package that are imported when they are first used
auto_classes  telling transformers' Auto classes about the models without importing them
"""
