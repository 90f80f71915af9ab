# Placeholder until the library target exists.
