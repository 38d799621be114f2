"""Zero-shot sketch-based image retrieval on Hugging Face."""
