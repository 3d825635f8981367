"""Workers: the app they run, its configuration, their heartbeat, and how they are started."""
