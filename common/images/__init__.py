"""Images as arrays: what a row of images is called, figures of masks, measurements."""
