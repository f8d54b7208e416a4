"""Images and video to arrays, with numpy and Pillow alone; chosen by the class names that a checkpoint's files have.

Nothing here needs torch. Rows of registries/vlm.toml say which of our classes stands for which of Hugging Face's.
"""
