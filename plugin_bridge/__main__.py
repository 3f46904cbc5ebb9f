"""`python -m plugin_bridge` is `plugin-bridge`."""

from plugin_bridge.cli import main

# A process that this one starts imports this file once more.
if __name__ == "__main__":
    main()
