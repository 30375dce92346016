"""Phantoms of pictures with known truth: spots of the skin, and scans of the retina."""
