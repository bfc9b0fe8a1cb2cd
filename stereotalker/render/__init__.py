"""The renderer: a diffusion model that turns control maps into frames."""
