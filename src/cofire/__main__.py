"""``python -m cofire`` and the ``cofire`` command."""


def main() -> None:
    """Run the command line."""
    from cofire.cli import run

    run()


if __name__ == "__main__":
    main()
