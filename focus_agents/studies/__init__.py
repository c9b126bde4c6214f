"""Several runs that are compared with each other. One run belongs in its stage."""
