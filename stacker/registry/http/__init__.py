"""HTTP requests to registries and to the hosts they redirect to.

A session sends one request: it picks the proxy and the certificates for the host, follows
redirects, repeats what failed for a passing reason, and gives up on a server that is too slow.
Credentials go only to the origin that they are meant for, and nothing goes from HTTPS to HTTP.
This package does not use the registry API; `stacker.registry` does.
"""
