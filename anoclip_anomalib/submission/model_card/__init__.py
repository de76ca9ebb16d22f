"""A comparison's results for the Hugging Face Hub."""
