"""HTTP requests to registries and to the hosts they redirect to.

A session sends one request.  It chooses the proxy and the certificates for the host, and follows
redirects.  It repeats a request after a transient failure, and disconnects from a slow server.
Credentials go only to the origin that they are meant for, and nothing goes from HTTPS to HTTP.
This package does not use the registry API; `stacker.registry` does.
"""
