"""Methods on top of the frozen encoder: features -> scores. A method knows CLIP, never files, Ray or HTTP."""
