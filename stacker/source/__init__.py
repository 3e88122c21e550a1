"""Where images come from.  A source reads documents and opens blobs; it unpacks nothing."""
