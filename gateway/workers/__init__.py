"""Several gateway processes on one machine behind one listening socket: a parent, and its workers, each one a node."""
