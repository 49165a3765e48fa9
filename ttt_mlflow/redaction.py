"""Keeps credentials out of everything that is printed, logged or recorded."""

import re


def without_secrets(uri: str) -> str:
    """``uri`` without its password, for printing and recording."""
    return re.sub(r"^([^:/]+://[^:/@]*):[^@/]*@", r"\1@", uri)
