"""Tables, documents and curves for people. The figures are computed where they belong and come here finished."""
