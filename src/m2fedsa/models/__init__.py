"""The networks: frozen encoders cut in two, adapters, classifiers, fusion. Knows nothing of parties or data."""
