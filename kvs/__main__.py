"""``python -m kvs``: the ``kvs`` command."""

from kvs.cli import main

if __name__ == "__main__":
    main()
