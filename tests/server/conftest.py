"""Settings of all tests of the server."""

from hypothesis import settings

# How long an example takes says more about the machine than about the code.
settings.register_profile("server", deadline=None)
settings.load_profile("server")
