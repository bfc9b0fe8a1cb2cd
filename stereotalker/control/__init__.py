"""Control maps: what the body mesh and the portrait say about every frame, before the renderer draws it."""
