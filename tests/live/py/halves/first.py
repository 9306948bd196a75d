"""The half that is imported first."""

__all__ = ["spin"]


def spin():
    """Never ends by itself."""
    while True:
        pass
