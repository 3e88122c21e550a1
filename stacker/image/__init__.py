"""What an image is: pure values parsed from bytes.  No I/O happens here."""
