"""AdaCLIP: prompts inside both encoders, learned and made from the image."""
