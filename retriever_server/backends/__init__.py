"""Back ends. Each is imported only when it is opened, so that none needs another's packages."""
