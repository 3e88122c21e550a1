"""Images as values: what documents, references and platforms state.

`document` reads JSON strictly; `descriptor`, `manifest`, `config` and `schema1` turn documents into
values; `digest` has a type for each of the four kinds of digest.  `reference`, `location` and
`platform` parse what a user writes, and `selection` chooses from an index.  This package opens no
file and no connection, and must not depend on how a layer is unpacked.
"""
