"""How the embedded demonstration CLIP is pretrained on generated images."""
