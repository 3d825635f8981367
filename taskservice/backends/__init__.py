"""Back ends: what runs tasks. Import them from their modules; each costs what it uses."""
