"""By which names and addresses of this machine a browser may ask it for something.

A page of another site can make its own name point here (DNS rebinding), and then reads what is answered. Its browser still says
by which name it asks (`Host`): one that is none of this machine's is not answered to.
"""

from __future__ import annotations

import ipaddress
import re
import socket

HOST = re.compile(r"(?:(?P<name>[a-z0-9._-]+)|\[(?P<v6>[0-9a-f:.]+)\])(?::[0-9]{1,5})?")


class OwnNames:
    """This machine's names, and addresses in numbers.

    Parameters
    ----------
    loopback : bool
        Whether what asks must be on this computer: then "localhost" and loopback addresses are all there is.
    """

    def __init__(self, loopback: bool) -> None:
        self._loopback = loopback
        name = socket.gethostname().lower()
        self._names = {"localhost"} if loopback else {"localhost", name, f"{name}.local", socket.getfqdn().lower()}

    def has(self, host: str) -> bool:
        """Whether a Host header names one of them; the port does not matter."""
        found = HOST.fullmatch(host.lower())
        if found is None:
            return False
        name = found["name"] or found["v6"]
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name.removesuffix(".") in self._names  # Bonjour writes names out in full
        return address.is_loopback or not self._loopback
