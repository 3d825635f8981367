"""Breaking what is real: connections, by a proxy; processes, by signals; a Redis of one's own."""
