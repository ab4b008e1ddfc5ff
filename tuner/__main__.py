"""``python -m tuner``. Workers import this module again when they start, so it imports nothing by itself."""


def main() -> None:
    """Run the command line."""
    from tuner.cli import main as run

    run()


if __name__ == "__main__":
    main()
