"""The page: power now and its history in a browser, by a process of its own that only reads."""
