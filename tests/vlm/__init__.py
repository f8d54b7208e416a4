"""Vision-language models beside transformers."""
