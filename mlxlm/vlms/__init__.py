"""Vision-language models, one short file each: a tower, and the decoder that the text registry builds."""
