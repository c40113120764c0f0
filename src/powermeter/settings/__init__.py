"""The user's settings.py: the frozen values it gives, the kinds of check they pass, and how it is read."""
