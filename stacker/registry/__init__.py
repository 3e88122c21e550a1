"""Clients of container registries: the OCI distribution API and Docker's Registry HTTP API V2.

`client` sends requests about one repository and answers authentication challenges; `mirrors` sends
them to several addresses in turn.  `download` and `ranges` read a blob and resume it after an
interruption, `upload` sends one, and `tags` lists a repository.  `registries_conf`, `credentials`
and `login` read and write the files that podman, skopeo and docker share.  This package does not
know what an image is made of: `stacker.source` and `stacker.destination` do.
"""
