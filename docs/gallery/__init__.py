"""The models of the gallery in docs/pictures.md, and the part of the page made of them."""
