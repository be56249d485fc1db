"""What this program prints for people."""


def say(subject: str, what: str) -> None:
    """A line of progress, printed at once: steps may take a while."""
    print(f"{subject}: {what}", flush=True)
