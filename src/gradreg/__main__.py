"""`python -m gradreg`."""

from gradreg.cli import main

if __name__ == "__main__":
    main()
