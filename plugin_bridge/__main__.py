"""`python -m plugin_bridge` is `plugin-bridge`."""

from plugin_bridge.cli import main

main()
