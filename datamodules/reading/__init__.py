"""Reading the files of data sets: pairing images and labels, decoding pixels, and summarising what they hold."""
