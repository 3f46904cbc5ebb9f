"""The source-filter stream converter: content encoder, decoder, pulse-and-noise synthesis."""
