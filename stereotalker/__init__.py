"""StereoTalker: speech and a portrait in, talking-human video out."""

__version__ = "0.1.0"
