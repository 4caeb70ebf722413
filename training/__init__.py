"""How the bundled model dsctl-tiny was made: its data, its architecture, its training and its measurement."""
