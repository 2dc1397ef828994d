"""``python -m twotower``: the same as the command ``twotower``."""

from twotower.cli.main import main

if __name__ == "__main__":
    main()
