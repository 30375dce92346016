"""What all pages that people open share: the look, and the colours."""
