"""The frozen CLIP encoder: images -> features, prompts -> text embeddings. It knows no method."""
