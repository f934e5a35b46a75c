"""Files of data sets: how images and labels pair up, what their pixels are, what they hold as a whole."""
